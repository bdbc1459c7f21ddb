"""What a stranger's Minari dataset may hold, judged before Minari reads it.

Minari reads whole arrays, follows what links to other files, decodes pictures of any size, and where `metadata.json`
says no spaces it makes the environment that the file names, which can be any function of any installed package.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
from gymnasium import spaces
from minari.dataset.minari_storage import is_image_space
from minari.serialization import deserialize_space
from PIL import Image

from gato_lite.envs.claims import too_large
from gato_lite.spaces import AnySpace

_POINTER: Final = 16
"""Bytes of a string or a list of varying length in memory, beside what it holds."""


def check_minari(folder: Path) -> None:
    """Judges a Minari dataset by what it claims, and reads none of its arrays.

    Args:
        folder: Holds `metadata.json` and `main_data.hdf5`.

    Raises:
        ValueError: no spaces, an array of objects, of more than 4 GiB in an episode, or in another file; a picture of
            another size than its space; the message names file and array.
    """
    metadata = _metadata(folder / "metadata.json")
    observation_space = _space(folder / "metadata.json", metadata, "observation_space")
    _space(folder / "metadata.json", metadata, "action_space")
    path = folder / "main_data.hdf5"
    try:
        with h5py.File(path, "r") as file:
            if (stated := metadata.get("total_episodes")) != len(file):
                raise ValueError(f"{path}: expected total_episodes={stated!r} episodes, found {len(file)}")
            for name in file:
                n_bytes = sum(_claimed(path, array) for array in _arrays(path, file, name))
                if problem := too_large(f"{path}: {name}", n_bytes):
                    raise ValueError(problem)
                if metadata.get("jpeg_encoding", True):
                    _check_pictures(path, f"{name}/observations", file, observation_space)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: expected a whole HDF5 file, found damage: {error}") from error


def _metadata(file: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected Minari's JSON, found damage: {error}") from error
    found = metadata.get("data_format") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or found != "hdf5":
        raise ValueError(
            f"{file}: expected data_format 'hdf5', found {found!r}; write it again in Minari's HDF5 format"
        )
    return metadata


def _space(file: Path, metadata: dict[str, Any], name: str) -> AnySpace:
    stored = metadata.get(name)
    if not isinstance(stored, str):
        raise ValueError(
            f"{file}: expected {name!r}, found none; without it Minari makes the environment that the file names, "
            "which can run any code: refused"
        )
    try:
        space: AnySpace = deserialize_space(stored)
    except (KeyError, TypeError, ValueError, AssertionError, NotImplementedError, RecursionError) as error:
        raise ValueError(f"{file}: expected {name!r} to be a space that Minari stores, found {error!r}") from error
    return space


def _arrays(path: Path, file: h5py.File, name: str) -> Iterator[h5py.Dataset]:
    """The arrays below a name, each once."""
    waiting, seen = [name], set()
    while waiting:
        place = waiting.pop()
        link = file.get(place, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{path}: {place}: expected values in this place, found a {type(link).__name__}: refused")
        found = file[place]
        address = h5py.h5o.get_info(found.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(found, h5py.Dataset):
            yield found
        elif isinstance(found, h5py.Group):
            waiting += [f"{place}/{key}" for key in found]
        else:
            raise ValueError(f"{path}: {place}: expected an array, found a {type(found).__name__}")


def _claimed(path: Path, array: h5py.Dataset) -> int:
    """Bytes of an array in memory."""
    dtype = array.dtype
    varying = h5py.check_string_dtype(dtype) is not None or _is_plain(h5py.check_vlen_dtype(dtype))
    if not varying and not _is_plain(dtype):
        kind = "an array of objects" if dtype.kind == "O" else f"dtype {dtype}"
        raise ValueError(f"{path}: {array.name}: expected numbers or strings, found {kind}; nothing is unpickled")
    if array.is_virtual or array.external:
        raise ValueError(f"{path}: {array.name}: expected values in this file, found them in another: refused")
    return int(math.prod(array.shape or ()) * max(dtype.itemsize, _POINTER * varying))


def _is_plain(dtype: Any) -> bool:  # Any: a dtype, or none
    return dtype is not None and dtype.kind in "fiub"


def _check_pictures(path: Path, place: str, file: h5py.File, space: AnySpace) -> None:
    """Minari makes room for all pictures of an array by the size of the first one."""
    match space:
        case spaces.Dict():
            children = list(space.spaces.items())
        case spaces.Tuple():
            children = [(f"_index_{index}", child) for index, child in enumerate(space.spaces)]
        case _:
            _check_picture(path, place, file, space)
            return
    for key, child in children:
        _check_pictures(path, f"{place}/{key}", file, child)


def _check_picture(path: Path, place: str, file: h5py.File, space: AnySpace) -> None:
    array = file[place]
    if not is_image_space(space) or not len(array):
        return
    try:
        with Image.open(io.BytesIO(array[0].tobytes()), formats=("JPEG",)) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {place}, step 0: expected a JPEG, found {error}") from error
    shape = tuple(space.shape or ())
    if (height, width) != shape[:2]:
        raise ValueError(f"{path}: {place}, step 0: expected {shape[0]} × {shape[1]} pixels, found {height} × {width}")
    if problem := too_large(f"{path}: {place}", len(array) * math.prod(shape)):
        raise ValueError(problem)

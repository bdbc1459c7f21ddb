"""Datasets of Minari, in and out: episodes of its HDF5 format become ours and ours become its.

    import_minari("D4RL/door/human-v2", "data/door")
    export_minari("data/CartPole", "mine/cartpole-v0")

What a dataset of ours says of itself (task, instruction, metric, token spec, scale, what acted, seed, licence) goes
with it as JSON in Minari's metadata, and comes back.

Needs the extra: pip install 'gato_lite[minari]'. Only datasets that Minari has on this machine are read;
`minari download NAME` fetches one. Pictures are stored without loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import msgspec
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gato_lite.config import TokenSpec
from gato_lite.envs.catalogue import ANY_GYMNASIUM
from gato_lite.envs.columns import BadValue, Column, Role, column_name, stack
from gato_lite.envs.dataset import Dataset, place_of
from gato_lite.envs.episodes import BadEpisodeError, Episodes
from gato_lite.envs.format import DatasetInfo, OnBad, parse_info, versions, write_json
from gato_lite.envs.parts import sides
from gato_lite.envs.writer import About, DatasetWriter
from gato_lite.names import unknown_name
from gato_lite.spaces import AnySpace, FreeText, escape_key, is_text, leaf_keys, leaf_spaces

if TYPE_CHECKING:
    from types import ModuleType

ANY_TEXT: Final = spaces.Text(2**16, min_length=0, charset="".join(map(chr, range(1, 0xD800))))
"""What stands for a space of any strings among Minari's."""
_KEY: Final = "gato_lite"
"""Where in Minari's metadata the words of `dataset.json` stand, without its parts."""


def import_minari(
    name: str,
    out: str | Path,
    *,
    task: str | None = None,
    instruction: str | None = None,
    spec: TokenSpec | None = None,
    licence: str | None = None,
    attribution: str | None = None,
    on_bad: OnBad = "error",
    overwrite: bool = False,
    on_note: Callable[[str], object] = warnings.warn,
) -> Dataset:
    """Write the episodes of a Minari dataset as a dataset of ours.

    Args:
        name: Minari's name of it, such as "D4RL/door/human-v2".
        out: Folder of the new dataset.
        task: Name of the task; None takes the one that the dataset was exported with, that of Minari's environment, or
            else Minari's of the dataset.
        instruction: What to do, in words; None takes what the dataset was exported with, as for the next two.
        spec: How observations become tokens.
        licence: SPDX name or words.
        attribution: Who made the episodes; None takes Minari's authors.
        on_bad: Whether an episode with a bad value is an error, or left out and counted.
        overwrite: Whether a dataset in `out` may be replaced.
        on_note: Told in words where what the dataset was exported with is damaged, and so left out.

    Raises:
        ImportError: Minari is not installed.
        ValueError: Minari has no such dataset here, it claims what may not be read, or a value in it is bad.
    """
    source = _open(name)
    observation_space, action_space = (
        _with_leaves(space, _restored) for space in (source.observation_space, source.action_space)
    )
    kept = _kept(source, name, on_note)
    about = replace(
        _about(kept, name),
        task=task or kept.task,
        spec=kept.spec if spec is None else spec,
        instruction=kept.instruction if instruction is None else instruction,
        licence=licence or kept.licence,
        attribution=attribution or ", ".join(sorted(source.storage.metadata.get("author", ()))) or None,
    )
    n_skipped = 0
    with DatasetWriter(out, observation_space, action_space, about, overwrite=overwrite) as writer:
        for episode in source.iterate_episodes():
            (stored,) = source.storage.get_episode_metadata([episode.id])
            try:
                writer.add(_from_minari(episode, stored.get("seed"), observation_space, action_space))
            except BadEpisodeError as error:
                if on_bad == "error":
                    raise BadEpisodeError(f"minari:{name}, episode {episode.id}: {error}") from error
                n_skipped += 1
        return writer.finish(n_skipped=n_skipped, reference=kept.reference)


def _open(name: str) -> Any:  # Any: Minari has no types
    """Minari's dataset of that name, once what it claims may be read."""
    minari = _minari()
    known = minari.list_local_datasets()
    if name not in known:
        raise ValueError(unknown_name("Minari dataset", name, known) + f"; `minari download {name}` fetches one")
    from minari.storage.datasets_root_dir import get_dataset_path

    from gato_lite.envs.hdf5 import check_minari  # its packages are an extra

    check_minari(get_dataset_path(name) / "data")
    return minari.load_dataset(name)


def _about(kept: DatasetInfo, name: str) -> About:
    """What of a dataset nobody can say anew: what its rewards mean, what acted, and from which seed on."""
    policy = {key: acted for key, acted in kept.generator.items() if key == "policy"}
    generator = {**versions("gato_lite", "minari"), **policy, "source": f"minari:{name}"}
    return About(task=kept.task, metric=kept.metric, generator=generator, seed=kept.seed)


def export_minari(path: str | Path, name: str | None = None, *, overwrite: bool = False) -> str:
    """Write a dataset of ours among Minari's and return its name there.

    Args:
        path: Folder of the dataset.
        name: Minari's name for it; None makes "gato_lite/<task>-v0".
        overwrite: Whether Minari's dataset of that name may be replaced.

    Raises:
        ImportError: Minari is not installed.
        FileExistsError: Minari has a dataset of that name, and `overwrite` is off.
        ValueError: `name` is none that Minari takes, or a key or a text is none that its HDF5 files can hold.
        TypeError: the spaces have a Sequence, a OneOf or a Graph, which Minari cannot store.
    """
    minari = _minari()
    dataset = Dataset.open(path)
    if name is None:
        name = f"gato_lite/{dataset.info.task.replace('/', '-').replace(':', '-')}-v0"
    _check_name(name)
    observation_space, action_space = (
        _with_leaves(space, _storable) for space in (dataset.observation_space, dataset.action_space)
    )
    _check_keys(observation_space)
    _check_keys(action_space)
    for index in range(dataset.n_parts):
        _check_texts(dataset, index)
    if name in minari.list_local_datasets():
        if not overwrite:
            raise FileExistsError(f"Minari has a dataset {name!r}; pass overwrite=True (--overwrite) to replace it")
        minari.delete_dataset(name)
    try:
        _write(dataset, name, observation_space, action_space)
    except BaseException:
        if name in minari.list_local_datasets():
            minari.delete_dataset(name)  # half of it
        raise
    return name


def _write(dataset: Dataset, name: str, observation_space: AnySpace, action_space: AnySpace) -> None:
    info, target = dataset.info, None
    for index in range(dataset.n_parts):
        buffers = list(_buffers(dataset.read_part(index), dataset))
        if target is not None:
            target.update_dataset_from_buffer(buffers)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one for each field that we leave open
            target = _minari().create_dataset_from_buffers(
                name,
                buffers,
                observation_space=observation_space,
                action_space=action_space,
                algorithm_name=info.generator.get("policy"),
                author=info.attribution,
                description=info.instruction or info.task,
                data_format="hdf5",
                jpeg_encoding=False,
            )
        bare = msgspec.structs.replace(info, n_rows=0, n_timesteps=0, parts=())
        target.storage.update_metadata({_KEY: write_json(bare).decode(), **_env_spec(info.task)})


def _check_keys(space: AnySpace) -> None:
    """Refuses keys that HDF5 takes for something else."""
    if isinstance(space, spaces.Dict):
        for key in space.spaces:
            if key in {"", "."} or "/" in key or "\0" in key:
                raise ValueError(f"Minari stores no key that is empty, '.', or has a '/' or NUL in it, got {key!r}")
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for child in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            _check_keys(child)


def _check_texts(dataset: Dataset, index: int) -> None:
    """Refuses texts that HDF5 would cut."""
    episodes = dataset.read_part(index)
    for role, space, columns, lengths in sides(episodes, dataset.observation_space, dataset.action_space):
        for path in (path for path, leaf in leaf_spaces(space).items() if is_text(leaf)):
            place = next((place for place, text in enumerate(columns[path]) if "\0" in text), None)
            if place is not None:
                episode, step = place_of(lengths, place)
                where = f"{dataset.path / dataset.info.parts[index].file}: episode {episode}, {column_name(role, path)}"
                raise ValueError(
                    f"{where}, step {step}: Minari stores no text with a NUL, got {columns[path][place]!r}"
                )


def _minari() -> ModuleType:
    try:
        import h5py  # noqa: F401  (Minari's HDF5 format)
        import minari
    except ImportError as error:
        raise ImportError("Minari datasets need packages that are missing: pip install 'gato_lite[minari]'") from error
    return minari  # type: ignore[no-any-return]  # Minari has no types


def _check_name(name: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # it raises TypeError where there is no version
        raise ValueError(f"name must be of the form [namespace/]dataset-v0, got {name!r}") from error


def _env_spec(task: str) -> dict[str, str]:
    """What `gymnasium.make` makes the task of, in Minari's metadata; empty where it is none of Gymnasium's alone."""
    spec = gym.registry.get(task.removeprefix(ANY_GYMNASIUM)) if task.startswith(ANY_GYMNASIUM) else None
    try:
        return {} if spec is None else {"env_spec": spec.to_json()}
    except (TypeError, ValueError):  # a class or another object, which JSON cannot write
        return {}


def _kept(source: Any, name: str, on_note: Callable[[str], object]) -> DatasetInfo:  # Any: Minari has no types
    """What the dataset said of itself when it was exported; of any other the task's name alone."""
    known, stored = source.env_spec, source.storage.metadata.get(_KEY)
    if stored is not None:
        try:
            if not isinstance(stored, str):
                raise ValueError(f"expected the JSON of a dataset, found {type(stored).__name__}")
            return parse_info(stored.encode(), "metadata.json")
        except ValueError as error:
            on_note(f"minari:{name}: what it was exported with, such as its task, is left out: {error}")
    task = name if known is None or known.additional_wrappers else ANY_GYMNASIUM + known.id
    return DatasetInfo(kind="control", task=task, n_rows=0, parts=())


def _from_minari(episode: Any, seed: int | None, observation_space: AnySpace, action_space: AnySpace) -> Episodes:
    lengths = np.array([len(episode.rewards)], np.int64)
    if not lengths[0]:
        raise BadEpisodeError("the episode is empty: expected at least one step")
    rewards = np.asarray(episode.rewards, np.float32)
    if not np.isfinite(rewards).all():
        step = int(np.argmin(np.isfinite(rewards)))
        raise BadEpisodeError(f"reward, step {step}: expected a finite number, got {rewards[step]}")
    infos = episode.infos or {}
    success = next((infos[key] for key in ("is_success", "success") if key in infos), None)
    return Episodes(
        observations=_columns("observation", observation_space, episode.observations, int(lengths[0]) + 1),
        actions=_columns("action", action_space, episode.actions, int(lengths[0])),
        rewards=rewards,
        terminated=np.array([bool(episode.terminations[-1])]),
        truncated=np.array([bool(episode.truncations[-1])]),
        lengths=lengths,
        seeds=np.array([-1 if seed is None else seed], np.int64),
        success=None if success is None else np.array([bool(np.asarray(success).reshape(-1)[-1])]),
    )


def _columns(role: Role, space: AnySpace, values: Any, n_values: int) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    keys = leaf_keys(space)
    for path, leaf in leaf_spaces(space).items():
        found = values
        for key in keys[path]:
            found = found[key]
        if len(found) != n_values:
            raise BadEpisodeError(f"{column_name(role, path)}: expected {n_values} values, got {len(found)}")
        try:
            columns[path] = stack(leaf, found, role)
        except BadValue as error:
            raise BadEpisodeError(f"{column_name(role, path)}, step {error.step}: {error}") from error
    return columns


def _storable(space: AnySpace) -> AnySpace:
    """A leaf with a space of strings as a `Text`, the only one Minari knows."""
    if isinstance(space, spaces.Sequence | spaces.OneOf | spaces.Graph):
        raise TypeError(f"Minari stores no {type(space).__name__} space, got {space}")
    return ANY_TEXT if is_text(space) and not isinstance(space, spaces.Text) else space


def _restored(space: AnySpace) -> AnySpace:
    """A leaf as it was before `_storable`."""
    return FreeText() if space == ANY_TEXT else space


def _with_leaves(space: AnySpace, change: Callable[[AnySpace], AnySpace]) -> AnySpace:
    match space:
        case spaces.Dict():
            return spaces.Dict({key: _with_leaves(child, change) for key, child in space.spaces.items()})
        case spaces.Tuple():
            return spaces.Tuple([_with_leaves(child, change) for child in space.spaces])
    return change(space)


def _buffers(episodes: Episodes, dataset: Dataset) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    stop = np.cumsum(episodes.lengths)
    for index, length in enumerate(episodes.lengths.tolist()):
        first = int(stop[index]) - length
        seen = slice(first + index, first + index + length + 1)
        ended = np.arange(length) == length - 1
        infos: dict[str, npt.NDArray[np.bool_]] = {}
        if episodes.success is not None:
            infos["success"] = np.append(np.zeros(length, np.bool_), episodes.success[index])
        yield EpisodeBuffer(
            seed=None if episodes.seeds[index] < 0 else int(episodes.seeds[index]),
            observations=_nested(dataset.observation_space, episodes.observations, seen),
            actions=_nested(dataset.action_space, episodes.actions, slice(first, first + length)),
            rewards=episodes.rewards[first : first + length].tolist(),
            terminations=(ended & episodes.terminated[index]).tolist(),
            truncations=(ended & episodes.truncated[index]).tolist(),
            infos=infos,
        )


def _nested(space: AnySpace, columns: Mapping[str, Column], rows: slice, path: tuple[str, ...] = ()) -> Any:
    """Columns by leaf path as the nesting of dictionaries and tuples that Minari stores."""
    match space:
        case spaces.Dict():
            return {k: _nested(child, columns, rows, (*path, escape_key(k))) for k, child in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_nested(child, columns, rows, (*path, str(i))) for i, child in enumerate(space.spaces))
    return columns["/".join(path)][rows]

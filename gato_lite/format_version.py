"""The promise that every JSON file of ours keeps: a later version says which gato-lite reads it.

`dataset.json`, `config.json` and `manifest.json` each have a `format_version`. From version 2 on a file also has
`gato_lite`, the version of the package that wrote it, so that any older reader can name what to install.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gato_lite import __version__

_VERSION: Final = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,40}")


class _Versions(msgspec.Struct):
    """What files of every version have; other fields are not looked at."""

    format_version: int = 1
    gato_lite: str = ""


def later_version(data: bytes, known: int) -> str | None:
    """Why this gato-lite cannot read a JSON file; None where it can.

    Args:
        data: The file's content.
        known: The latest `format_version` that is read.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError: it is no JSON object, or one of these fields has
            another type.
    """
    found = msgspec.json.decode(data, type=_Versions)
    if 1 <= found.format_version <= known:
        return None
    if found.format_version < 1:
        return f"expected a format version from 1 to {known}, found {found.format_version}"
    writer = found.gato_lite if _VERSION.fullmatch(found.gato_lite) else None
    needed, wanted = (f"≥ {writer}", f">={writer}") if writer else (f"> {__version__}", f">{__version__}")
    return (
        f"format version {found.format_version} needs gato-lite {needed}, this is gato-lite {__version__} and reads"
        f" up to {known}: pip install -U 'gato_lite{wanted}'"
    )

"""`gato-lite doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gato_lite.train.console import print_json

EXAMPLE: Final = "gato-lite doctor"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what this machine brings to a run, and what is wrong with it."""

    json: bool = False
    """Write JSON."""


def run(options: Options) -> None:
    """Prints the diagnosis."""
    from gato_lite.train.doctor import diagnose, render

    diagnosis = diagnose()
    if options.json:
        print_json(diagnosis.to_json())
    else:
        print(render(diagnosis))

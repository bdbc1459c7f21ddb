"""One Transformer that acts, names pictures and writes, small enough for a laptop.

The names below are imported on first use, so that `import gato_lite` and `gato-lite --help` load neither torch nor an
environment suite.

Example:
    >>> import gato_lite
    >>> gato_lite.GatoConfig.preset("lite-1m").n_layer
    4
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gato_lite.chat import Chat
    from gato_lite.choices import log_likelihoods
    from gato_lite.config import GatoConfig, TokenSpec
    from gato_lite.envs.record import record
    from gato_lite.envs.task import Task
    from gato_lite.exchange import Exchange
    from gato_lite.generate import generate
    from gato_lite.model import Gato
    from gato_lite.policy import Policy
    from gato_lite.run import load
    from gato_lite.sequence import Tokens
    from gato_lite.tokenizers.space import SpaceTokenizer
    from gato_lite.tokenizers.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "Exchange",
    "Gato",
    "GatoConfig",
    "Policy",
    "SpaceTokenizer",
    "Task",
    "TokenSpec",
    "Tokens",
    "Vocabulary",
    "generate",
    "load",
    "log_likelihoods",
    "record",
]

_MODULES: Final[dict[str, str]] = {
    "Chat": "gato_lite.chat",
    "Exchange": "gato_lite.exchange",
    "Gato": "gato_lite.model",
    "GatoConfig": "gato_lite.config",
    "Policy": "gato_lite.policy",
    "SpaceTokenizer": "gato_lite.tokenizers.space",
    "Task": "gato_lite.envs.task",
    "TokenSpec": "gato_lite.config",
    "Tokens": "gato_lite.sequence",
    "Vocabulary": "gato_lite.tokenizers.vocabulary",
    "generate": "gato_lite.generate",
    "load": "gato_lite.run",
    "log_likelihoods": "gato_lite.choices",
    "record": "gato_lite.envs.record",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'gato_lite' has no attribute '{name}'; public names are {', '.join(__all__)}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `gato_lite.generate` the function, whatever imports the module of the same name first."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

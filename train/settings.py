"""Everything a training run can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_type_hints

import msgspec

from gato_lite.config import PRESETS, GatoConfig, PatchEncoder, Precision
from gato_lite.names import unknown_name

Augment = Literal["none", "moved", "recoloured"]
"""What a draw does to pictures; each does what the one before does."""
NEVER_S: Final = 1e9
"""Seconds: no checkpoint and no evaluation before the end."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run is trained; all of it is stored in the run's `config.json`."""

    preset: str = "lite-1m"
    """Model preset."""
    patch_encoder: PatchEncoder | None = None
    """Patch encoder in place of the preset's."""
    patch_size: int | None = None
    """Side of the largest patch in pixels, in place of the preset's."""
    context_length: int = 256
    """Longest document in tokens."""
    tokens_per_step: int = 2048
    """Tokens in one step's stream, over all ranks."""
    accumulate: int = 1
    """Parts of a step whose gradients are computed one after another and added: less memory, the same step."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for linear and convolution layers."""
    learning_rate: float = 3e-3
    """Peak of AdamW."""
    matrix_learning_rate: float = 1e-2
    """Peak of Muon."""
    augment: Augment = "none"
    """How pictures are varied each time they are drawn: a little turned, scaled and shifted, or recoloured as well
    (which pictures that questions are asked about never are)."""
    loss_on: Literal["answers", "text"] = "answers"
    """Whether answers alone are predicted, or prompts too."""
    n_example: int = 0
    """Most other documents that stand before one as examples (captions, questions, translations)."""
    piece_noise: float = 0.0
    """Share of the pieces of an answer that the model reads as any other piece while it learns what follows: an answer
    then leans on its prompt, and goes on after a slip."""
    weight_decay: float = 0.01
    """Decoupled, of linear and convolution layers."""
    warmup_steps: int = 100
    """Steps over which the rate rises to its peak."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Precision = "auto"
    """What matrices are multiplied in; weights, sums of gradients and, on a CPU, attention are float32 in any case."""
    compile: bool = True
    """Whether blocks are compiled, where that pays: on CUDA. The first step then takes about a minute."""
    checkpoint_activations: bool | None = None
    """Whether each block is computed again in the backward pass in place of being kept: a third more time, far less
    memory; None does so for gato-1.18b."""
    seed: int = 0
    """Of weights and batches."""
    checkpoint_every_s: float = 120.0
    """Seconds between checkpoints."""
    evaluate_every_s: float = 300.0
    """Seconds between evaluations of a few episodes of each task."""
    log_every: int = 20
    """Steps between lines of `metrics.jsonl`."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(unknown_name("preset", self.preset, PRESETS))
        for name in ("context_length", "tokens_per_step", "accumulate", "warmup_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={getattr(self, name)}")
        for name in ("learning_rate", "matrix_learning_rate", "gradient_clip"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {name}={getattr(self, name)}")
        for name in ("weight_decay", "seed", "checkpoint_every_s", "n_example"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {name}={getattr(self, name)}")
        if not 0 <= self.piece_noise < 1:
            raise ValueError(f"piece_noise must be in [0, 1), got piece_noise={self.piece_noise}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be in 0..2**63 - 1, got seed={self.seed}")

    @property
    def checkpoints_activations(self) -> bool:
        """Whether each block is computed again in the backward pass."""
        chosen = self.checkpoint_activations
        return self.preset == "gato-1.18b" if chosen is None else chosen

    def model(self, vocab_size: int) -> GatoConfig:
        """Shape of the model."""
        changes = {"patch_encoder": self.patch_encoder, "patch_size": self.patch_size}
        given = {name: value for name, value in changes.items() if value is not None}
        return GatoConfig.preset(self.preset, context_length=self.context_length, vocab_size=vocab_size, **given)


def with_settings(config: TrainConfig, given: Sequence[str]) -> TrainConfig:
    """The configuration with some of it said anew.

    Args:
        config: the other settings.
        given: "name=value", each of a field; "null" is None.

    Raises:
        ValueError: a name is unknown, or a value does not fit.
    """
    types = get_type_hints(TrainConfig)
    changes: dict[str, Any] = {}  # Any: of the fields
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"a setting must be NAME=VALUE, got '{setting}'")
        if name not in types:
            raise ValueError(unknown_name("setting", name, types))
        try:
            changes[name] = msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            expected = str(types[name]).replace("typing.", "")
            raise ValueError(f"setting {name}={value}: expected {expected}: {error}") from error
    return replace(config, **changes)

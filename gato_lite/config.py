"""Frozen configuration dataclasses and the model presets.

Everything that a component needs to know is one small dataclass; a checkpoint stores them as JSON. Derived values
are properties, and `__post_init__` only checks.

Source: Reed et al. 2022, "A Generalist Agent", Table 5 for the `gato-*` presets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Final, Literal, get_type_hints

from gato_lite.names import unknown_name

LeafKind = Literal["text", "image", "chunks", "bins", "integer"]
PatchEncoder = Literal["mlp", "linear", "conv", "hog", "resnet", "tnt"]
Precision = Literal["auto", "float32", "bfloat16"]
"""What training multiplies matrices in; `auto` is bfloat16 where the device has instructions for it, else float32."""
ActingPrecision = Literal["float32", "bfloat16"]
"""What acting and writing keep the matrices of blocks in, and multiply them in."""

CHUNK_WIDTH: Final = 32
"""Scalars in one chunk token."""
MAX_CHANNELS: Final = 4
"""Channels of the widest patch (RGBA)."""


LIMITS: Final = {
    "n_layer": (1, 1024),
    "n_head": (1, 1024),
    "d_model": (1, 65_536),
    "d_ff": (1, 262_144),
    "context_length": (1, 2**24),
    "patch_size": (1, 1024),
    "grid_size": (0, 1024),
    "n_grid_head": (0, 256),
    "d_encoder": (1, 65_536),
    "n_local": (1, 32_768),
    "n_text_local": (0, 16_384),
    "vocab_size": (1, 2**24),
}
"""Smallest and largest value of each width and count: far beyond any model trained, so that a slip is told as one."""


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """How one task's observations become tokens, where the default read off its space is not the best."""

    kinds: tuple[tuple[str, LeafKind], ...] = ()
    """(leaf path, kind) pairs that override what the space suggests."""
    leaves: tuple[str, ...] | None = None
    """Paths of the observation leaves to keep, the others are dropped; None keeps all."""
    once: tuple[str, ...] = ()
    """Paths of leaves written in a window's first timestep and then only when their value changes."""
    patch_size: int = 16
    """Side of a square patch in pixels, at most the model's own."""
    pixel_high: tuple[int, ...] | None = None
    """Largest raw value of each channel, scaled to 255 (symbolic grids); None means pixels are used as they are."""
    history: int | None = None
    """Most timesteps of an episode that stand in a window; None is as many as fit the context.

    Few where the observation says all that matters: a model that sees its past actions learns to repeat them.
    """
    separator: bool = False
    """Whether a separator token stands between observation and action (GATO section 2.1)."""

    def __post_init__(self) -> None:
        import msgspec  # `gato-lite doctor` reads this module also where it is missing

        kinds = get_type_hints(TokenSpec)
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, kinds[field.name])  # as it will be when it is read from a file
            except msgspec.ValidationError as error:
                raise ValueError(f"{field.name} must be {field.type}, got {field.name}={value!r}: {error}") from error
        if self.patch_size < 1:
            raise ValueError(f"patch_size must be at least 1 pixel, got patch_size={self.patch_size}")
        if self.history is not None and self.history < 1:
            raise ValueError(f"history must be at least 1 timestep or None, got history={self.history}")
        if self.pixel_high is not None and any(not 1 <= high <= 255 for high in self.pixel_high):
            raise ValueError(f"pixel_high must be in 1..255 for every channel, got {self.pixel_high}")


@dataclass(frozen=True, kw_only=True)
class GatoConfig:
    """Shape of one model.

    Example:
        >>> GatoConfig.preset("gato-364m").d_model
        1536
    """

    n_layer: int
    """Transformer blocks."""
    n_head: int
    """Attention heads of each block."""
    d_model: int
    """Width of the residual stream."""
    d_ff: int
    """Width of the feed-forward layer."""
    context_length: int = 1024
    """Longest document in tokens."""
    patch_encoder: PatchEncoder = "mlp"
    """Network that embeds a patch: a hidden layer, ViT's projection, strided convolutions, a convolution over oriented
    gradients and colours, GATO's residual block, or Transformer in Transformer."""
    patch_size: int = 16
    """Side of the largest patch in pixels."""
    grid_size: int = 8
    """Patches of at most this side, such as symbolic grids, are embedded by one hidden layer; 0 means none are."""
    d_encoder: int = 256
    """Hidden width of the patch and chunk encoders."""
    n_local: int = 512
    """Local indices with an embedding of their own; later places in an observation share the last."""
    n_text_local: int = 0
    """Places in a prompt with an embedding of their own, and as many in an answer; later ones share the last; 0 means
    that texts have no places."""
    token_shift: bool = False
    """Whether each token is read together with the one before it."""
    head_norm: bool = False
    """Whether queries and keys are normalised, head by head."""
    vocab_size: int = 6148
    """Token ids, those of the shipped vocabulary by default."""
    n_grid_head: int = 0
    """Heads with which a grid is looked at for what was last said; 0 means it is not."""
    n_kv_head: int | None = None
    """Heads of keys and values, each shared by n_head / n_kv_head heads of queries; None means one for each."""

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                limit = f"at least {low}" if getattr(self, name) < low else f"at most {high:,}"
                raise ValueError(f"{name} must be {limit}, got {name}={getattr(self, name)}")
        if self.d_model % self.n_head:
            raise ValueError(f"d_model must be divisible by n_head, got d_model={self.d_model}, n_head={self.n_head}")
        if self.n_kv_head is not None and (self.n_kv_head < 1 or self.n_head % self.n_kv_head):
            raise ValueError(f"n_kv_head must divide n_head, got n_kv_head={self.n_kv_head}, n_head={self.n_head}")
        if self.d_head % 2:
            raise ValueError(f"the head size must be even for rotary positions, got d_model/n_head={self.d_head}")

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_head

    @property
    def n_key_head(self) -> int:
        """Heads of keys and values."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @classmethod
    def preset(cls, name: str, **changes: object) -> GatoConfig:
        """The preset called `name`, with `changes` to its fields.

        Raises:
            ValueError: no preset has that name; the message lists the closest.
        """
        if name not in PRESETS:
            raise ValueError(unknown_name("preset", name, PRESETS))
        return replace(PRESETS[name], **changes)  # type: ignore[arg-type]


_TODAY: Final = partial(GatoConfig, n_text_local=256, token_shift=True, head_norm=True)
"""What came later than the first runs, and every new one has."""
_LITE: Final = partial(_TODAY, n_grid_head=4)
_PAPER: Final = partial(_TODAY, patch_encoder="resnet", grid_size=0)
PRESETS: Final[dict[str, GatoConfig]] = {
    "lite-1m": _LITE(n_layer=4, n_head=2, d_model=128, d_ff=512),
    "lite-2m": _LITE(n_layer=4, n_head=2, d_model=128, d_ff=1024),
    "lite-5m": _LITE(n_layer=6, n_head=4, n_kv_head=2, d_model=256, d_ff=1024),
    "lite-20m": _LITE(n_layer=10, n_head=6, n_kv_head=2, d_model=384, d_ff=1536),
    "gato-79m": _PAPER(n_layer=8, n_head=24, d_model=768, d_ff=3072),
    "gato-364m": _PAPER(n_layer=12, n_head=12, d_model=1536, d_ff=6144),
    "gato-1.18b": _PAPER(n_layer=24, n_head=16, d_model=2048, d_ff=8192),
}
"""Presets; layers, heads and widths of the `gato-*` ones are the paper's (Table 5)."""

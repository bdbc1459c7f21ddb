"""Text ↔ pieces: SentencePiece BPE with byte fallback, exact for every string.

Decisions:
- Identity normalisation, no dummy prefix, no whitespace folding: what goes in comes out, character by character.
- SentencePiece writes a space as U+2581 and so cannot tell the two apart. A U+2581 in the text is spelled as its
  three UTF-8 bytes instead.
- Pieces are decoded here, through a table of their bytes, so that a model's output with broken byte runs becomes
  U+FFFD rather than an error.
- No control pieces exist: "<s>" or "<0x41>" in a user's text is plain text.

Source: Reed et al. 2022, section 2.1 (SentencePiece subwords); Kudo and Richardson 2018.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import sentencepiece
from jaxtyping import Int32

SPACE_MARK: Final = "\u2581"
"""What SentencePiece writes for a space."""
_PROBE: Final = "  a\0\n\u00e9 \U0001f600 <s> "


class LoneSurrogateError(ValueError):
    """Text that is no Unicode: half of a pair of surrogates without its other half; the message says where."""


class TextTokenizer:
    """One trained SentencePiece model, as exact text ↔ ids."""

    def __init__(self, model_bytes: bytes) -> None:
        """Reads a model; `from_file` reads one that is stored.

        Raises:
            ValueError: the bytes are no SentencePiece model, or one that does not reproduce every string.
        """
        if not model_bytes:  # of which SentencePiece makes a model without pieces
            raise ValueError("expected a SentencePiece model, got 0 bytes")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except RuntimeError as error:
            raise ValueError(f"expected a SentencePiece model, got {len(model_bytes)} bytes that are none") from error
        self.model_bytes: Final = model_bytes
        self.sha256: Final = hashlib.sha256(model_bytes).hexdigest()
        self.n_pieces: Final[int] = processor.get_piece_size()
        self._processor = processor
        self.unknown: Final[int] = processor.unk_id()
        """The piece that SentencePiece demands and that no text is encoded to; it decodes to U+FFFD."""
        names = processor.id_to_piece(list(range(self.n_pieces)))
        self.pieces: Final[tuple[str, ...]] = tuple(
            "\ufffd" if i == self.unknown else name for i, name in enumerate(names)
        )
        is_byte = [processor.is_byte(i) for i in range(self.n_pieces)]
        self.byte_ids: Final[dict[int, int]] = {
            int(piece[3:5], 16): i for i, piece in enumerate(self.pieces) if is_byte[i]
        }
        """Id of the piece of each byte value."""
        self.piece_bytes: Final[tuple[bytes, ...]] = tuple(
            bytes([int(piece[3:5], 16)]) if is_byte[i] else piece.replace(SPACE_MARK, " ").encode()
            for i, piece in enumerate(self.pieces)
        )
        """UTF-8 bytes that each piece stands for."""
        if len(self.byte_ids) != 256 or self.decode(self.encode(_PROBE)) != _PROBE:
            raise ValueError(
                f"expected a text model with byte fallback that reproduces {_PROBE!r}, got one that does not; "
                "train it with train_text_model"
            )

    @classmethod
    def from_file(cls, path: str | Path) -> TextTokenizer:
        """The model stored at `path`."""
        return cls(Path(path).read_bytes())

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[bytes]]:
        return TextTokenizer, (self.model_bytes,)

    def __repr__(self) -> str:
        return f"TextTokenizer({self.n_pieces} pieces, sha256 {self.sha256[:8]})"

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        """The pieces of `text`; `decode` gives back exactly `text`.

        Raises:
            LoneSurrogateError: `text` holds a lone surrogate, which no encoding of Unicode can carry.
        """
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise LoneSurrogateError(
                    f"text must be valid Unicode, got the lone surrogate U+{ord(text[error.start]):04X} "
                    f"at position {error.start}"
                ) from error
        if SPACE_MARK not in text:
            return np.array(self._processor.encode(text), np.int32)
        mark = [self.byte_ids[byte] for byte in SPACE_MARK.encode()]
        ids: list[int] = []
        for i, part in enumerate(text.split(SPACE_MARK)):
            ids += [*mark, *self._processor.encode(part)] if i else self._processor.encode(part)
        return np.array(ids, np.int32)

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text of `ids`, with U+FFFD for byte runs that are not UTF-8.

        Raises:
            ValueError: an id is not a piece of this model.
        """
        flat = np.asarray(ids, np.int64).reshape(-1)
        if flat.size and not (flat.min() >= 0 and flat.max() < self.n_pieces):
            wrong = flat[(flat < 0) | (flat >= self.n_pieces)][0]
            raise ValueError(f"expected piece ids in 0..{self.n_pieces - 1}, got {wrong}")
        return b"".join(map(self.piece_bytes.__getitem__, flat.tolist())).decode("utf-8", "replace")


def train_text_model(texts: Iterable[str], n_pieces: int = 4096, out: str | Path | None = None) -> bytes:
    """Trains a model on `texts` and returns its bytes, written to `out` if given.

    The same texts give the same model. A line feed is its byte piece, so each line is a training sentence.

    Args:
        texts: any amount of text; a character too rare for a piece of its own is spelled in bytes.
        n_pieces: size of the vocabulary, the 256 byte pieces and the unused unknown piece included.
        out: file to write.

    Raises:
        ValueError: `texts` are too short to learn `n_pieces` pieces from.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=n_pieces,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            character_coverage=0.9999,
            max_sentence_length=1 << 24,
            hard_vocab_limit=True,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"could not learn n_pieces={n_pieces} pieces from these texts: {error}") from error
    if out is not None:
        Path(out).write_bytes(model.getvalue())
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """The lines of `texts` without what SentencePiece takes for its own: NUL and its space mark."""
    for text in texts:
        for line in text.replace("\0", "\n").replace(SPACE_MARK, "\n").split("\n"):
            if line:
                yield line

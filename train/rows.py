"""Rows of a stranger's CSV, JSON or Parquet → documents: which columns count, and what they mean together.

| columns               | document                                        | ability                                  |
|-----------------------|-------------------------------------------------|------------------------------------------|
| picture, text         | a captioned picture                             | caption                                  |
| picture, label        | a picture, asked for its class                  | class                                    |
| picture, prompt, text | a question about a picture, and the answer      | question                                 |
| prompt, text          | what is said, and the reply                     | translation (by its prompt), or dialogue |
| messages              | a conversation: user and assistant in turns     | dialogue                                 |
| pictures, messages    | the same; pictures stand before its first words | question                                 |
| translation           | a text in two languages                         | translation, of the first to the second  |
| text                  | a text, cut at paragraphs where it is long      | text                                     |

Of several pictures the last is the question's own, the others stand before it. What has a picture in common, or else a
prompt, the first of several, is on one side of the split.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gato_lite.envs.dataset import Document, Turn
from gato_lite.spaces import lone_surrogate
from gato_lite.train.items import Item, Reader, content_hash, read_text, text_items
from gato_lite.train.templates import CLASS_PROMPT, LANGUAGES, translation_prompt

COLUMNS: Final = {
    "file": ("file", "file_name", "image", "images"),
    "messages": ("messages",),
    "translation": ("translation",),
    "prompt": ("prompt", "question"),
    "text": ("text", "caption", "answer", "label", "labels"),
    "group": ("group",),
    "split": ("split",),
}
"""Names of columns by what they hold, the first that is there is taken."""
LABELS: Final = ("label", "labels")
"""Columns of texts that are names of classes."""
TABLES: Final = (".csv", ".jsonl")
"""Names of files that `table_rows` reads."""
_FORMS: Final = {"messages": list, "translation": dict}
"""Columns that count where they hold this alone, and then say all that the document says."""
_FOLLOWS: Final = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
"""Who may speak after whom."""
SPLITS: Final = {"train": "train", "test": "test", "validation": "test", "valid": "test", "dev": "test"}
"""What the first word of a file's name, or a column, says of rows."""


def split_of_file(name: str) -> str | None:
    """The split of a file's rows, such as "test" for test-00000-of-00001.parquet; None where its name says none."""
    return SPLITS.get(re.split(r"[-.]", name)[0])


def columns_of(row: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON, or values of Arrow
    """The column for each key of `COLUMNS` that a document is made of; None is no value."""
    there = {name for name, value in row.items() if value is not None and isinstance(value, _FORMS.get(name, object))}
    found = {what: next((name for name in names if name in there), None) for what, names in COLUMNS.items()}
    if (whole := next((name for name in _FORMS if found[name]), None)) is not None:
        found |= dict.fromkeys({*_FORMS, "prompt", "text"} - {whole})
    return {what: name for what, name in found.items() if name is not None}


def is_asked(row: Mapping[str, Any]) -> bool:  # Any: JSON, or values of Arrow
    """Whether a row has more than a text, so that it needs no picture."""
    return any(row[column] for what, column in columns_of(row).items() if what in {*_FORMS, "prompt"})


def row_items(
    name: str, row: Mapping[str, Any], pictures: Sequence[bytes], reader: Reader, *, split: str | None = None
) -> Iterator[Item]:  # Any: JSON, or values of Arrow
    """The documents of one row.

    Args:
        name: where it is, for messages.
        row: values by column; None is none.
        pictures: its picture files.
        reader: notes which columns are used.
        split: of a row that says none.

    Raises:
        ValueError: no text, a value that cannot be read or stored, or another split than there is.
    """
    columns = columns_of(row)
    reader.note_columns(row, columns.values())
    found = {what: words_in(column, row[column]) for what, column in columns.items() if what not in {"file", *_FORMS}}
    group = found.get("group") or None
    if "messages" in columns:
        turns = _conversation(row["messages"])
    elif "translation" in columns:
        turns = [_translated(row["translation"])]
    elif "text" in columns:
        turns = [_asked(found, is_label=columns["text"] in LABELS, has_picture=bool(pictures))]
    else:
        raise ValueError(f"expected `text`, `caption`, `answer` or `label`, got {', '.join(row) or 'nothing'}")
    for words in (group or "", *(words for turn in turns for words in (turn.prompt, turn.text))):
        if (place := lone_surrogate(words)) is not None:
            raise ValueError(f"expected text that UTF-8 can write, got a lone surrogate at {place}")
    split = found.get("split") or split
    if split is not None and split not in SPLITS:
        raise ValueError(f'expected split "train" or "test", got {split!r}')
    split = None if split is None else SPLITS[split]
    if not pictures and not turns[0].prompt:
        yield from text_items(name, turns[0].text, split=split, group=group)
        return
    if not all(turn.text.strip() for turn in turns):
        raise ValueError("expected a caption or an answer, got an empty one")
    key = content_hash(pictures[0] if pictures else turns[0].prompt.encode())
    turns = [Turn(prompt=turn.prompt, text=turn.text.strip()) for turn in turns]
    if pictures:
        turns = [*map(Turn, pictures[:-1]), turns[0]._replace(image=pictures[-1]), *turns[1:]]
    image, prompt, text = turns.pop()
    yield Item(name, key, split, Document(image, text, group=group, prompt=prompt, before=tuple(turns)))


def _asked(found: Mapping[str, str], *, is_label: bool, has_picture: bool) -> Turn:
    prompt = found.get("prompt", "").strip()
    if is_label and not prompt:
        if not has_picture:
            raise ValueError("expected a picture or a prompt with a label, got neither")
        prompt = CLASS_PROMPT
    return Turn(prompt=prompt, text=found["text"])


def _conversation(messages: Sequence[Any]) -> list[Turn]:  # Any: as row_items
    """What was said and answered, turn after turn; what the system says is the beginning of the first prompt."""
    turns, said, last = [], "", ""
    for number, message in enumerate(messages, 1):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if role not in _FOLLOWS[last]:
            raise ValueError(f"expected {' or '.join(_FOLLOWS[last])} as `role` of message {number}, got {role!r}")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"expected words as `content` of message {number}, got {str(content)[:60]!r}")
        if shown := [name for name in COLUMNS["file"] if message.get(name)]:
            raise ValueError(f"expected pictures beside `messages` alone, got {shown[0]} in message {number}")
        if role == "assistant":
            turns.append(Turn(prompt=said, text=content))
            said = ""
        else:
            said = f"{said}\n\n{content}".strip()
        last = role
    if last != "assistant":
        raise ValueError(f"expected an answer, of role assistant, as the last of `messages`, got {last or 'none'}")
    return turns


def _translated(texts: Mapping[str, Any]) -> Turn:  # Any: as row_items
    """A text in its first language as the prompt, and in its second as the answer."""
    if len(texts) != 2 or not all(isinstance(text, str) and text.strip() for text in texts.values()):
        raise ValueError(f"expected a text in two languages in `translation`, got {str(texts)[:60]}")
    (_, source), (language, target) = texts.items()
    if language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise ValueError(f"expected a language of {known}, got {language!r}; write it out as `prompt` and `text`")
    return Turn(prompt=translation_prompt(source.strip(), language), text=target)


def words_in(column: str, value: Any) -> str:  # Any: as row_items
    """A text or a number in a row, in words.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str | int | float):
        raise ValueError(f"expected text or a number in `{column}`, found {type(value).__name__}")
    return str(value)


def table_rows(place: Path, data: bytes, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: JSON
    """(place, row) of a CSV file with a header or of a file of one JSON object a line; what is none is left out.

    Raises:
        ValueError: no text, or CSV without a column of text or with damage; the message names its place.
    """
    try:
        text = read_text(data)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if place.suffix.lower() == ".csv":
        yield from _csv_rows(place, text, reader)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            reader.n_read += 1
            name = f"{place}, line {number}"
            try:
                yield name, json_object(line)
            except ValueError as error:
                reader.leave_out(name, error)


def _csv_rows(place: Path, text: str, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:  # Any: as table_rows
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="", delimiter=_delimiter(text))
    try:
        rows.fieldnames = names = _small(rows.fieldnames or ())
        if "text" not in columns_of(dict.fromkeys(names, "")):
            expected = "a first line with `file` and `text`, or `prompt` and `text`"
            raise ValueError(f"{place}: expected {expected}, got {', '.join(names) or 'nothing'}")
        for row in rows:
            reader.n_read += 1
            yield f"{place}, line {rows.line_num}", {name: value for name, value in row.items() if name}
    except csv.Error as error:
        raise ValueError(f"{place}, after line {rows.line_num}: {error}") from error


def _delimiter(text: str) -> str:
    """A semicolon where that alone makes a column of texts of the first line, else a comma."""
    names = {mark: [name.strip('"') for name in text.partition("\n")[0].split(mark)] for mark in ",;"}
    there = [mark for mark in names if "text" in columns_of(dict.fromkeys(_small(names[mark]), ""))]
    return there[0] if there else ","


def _small(names: Sequence[str]) -> list[str]:
    """The same with capitals made small where that makes one column that is understood."""
    small = [name.lower() for name in names]
    known = {name for those in COLUMNS.values() for name in those}
    return [low if low in known and small.count(low) == 1 else name for name, low in zip(names, small, strict=True)]


def json_object(text: str | bytes) -> dict[str, Any]:  # Any: JSON
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object, got {text[:60]!r}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {text[:60]!r}")
    return row

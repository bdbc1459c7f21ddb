"""A process that reads what it is told to, so that a reader that crashes, hangs or swallows the memory harms no test.

Each line of standard input is a JSON object `{"reader": NAME, "path": PATH}`; each line of standard output says what
came of it: `{"kind": "read", "value": DIGEST}`, `{"kind": "refused", "error": TEXT}`, or `{"kind": "raised", …}` for an
error that the command line would not explain in one line.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gato_lite.checkpoint import load_checkpoint
from gato_lite.envs.dataset import Dataset, check
from gato_lite.envs.parts import read_metadata
from gato_lite.run import load, read_run_config, read_vocabulary
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.text import TextTokenizer
from gato_lite.train.cli import _explain
from gato_lite.train.folders import import_source
from gato_lite.train.metrics import drop_lines_after, read_metrics
from gato_lite.train.pictures import decode_picture
from gato_lite.train.verify import verify

ROOM = 1 << 30
"""Bytes of address space that reading may take beyond what this process has at the start."""


def read_dataset(path: Path) -> Any:
    """All that training takes from a dataset, and all that `data check` looks at."""
    dataset = Dataset.open(path)
    if dataset.info.kind == "documents":
        return dataset.read_documents()
    tokenizers = [SpaceTokenizer(space) for space in (dataset.observation_space, dataset.action_space)]
    parts = [dataset.read_part(index) for index in range(dataset.n_parts)]
    columns = [
        [part.observations, part.actions, part.rewards, part.lengths, part.seeds, part.success] for part in parts
    ]
    return [columns, dataset.lengths(), [part.terminated for part in parts], len(tokenizers)]


def read_run(path: Path) -> Any:
    """What acting takes from a run."""
    config = read_run_config(path)
    read_vocabulary(path, config)
    spaces = [str(task.spaces) for task in config.tasks]
    return [spaces, {name: tensor.numpy() for name, tensor in load(path).state_dict().items()}]


def read_checkpoint(path: Path) -> Any:
    """What --resume takes from a run's checkpoint."""
    checkpoint = load_checkpoint(path)
    tensors = {**checkpoint.model, **{f"optimizer {name}": tensor for name, tensor in checkpoint.optimizer.items()}}
    return [{name: tensor.float().numpy() for name, tensor in tensors.items()}, checkpoint.state]


def read_text_model(path: Path) -> Any:
    """A text model, used on some text."""
    tokenizer = TextTokenizer.from_file(path)
    return [tokenizer.pieces, tokenizer.encode("Go to the red ball. \0 \u2581 \u00e9 \U0001f600")]


def read_verified(path: Path) -> Any:
    """`verify`, which finds problems and never fails."""
    return len(verify(path).problems) == 0


def read_documents(path: Path) -> Any:
    """`data import` of a folder of texts, or of pictures with captions."""
    out = path.with_name("imported")
    import_source(path, out, overwrite=True)
    return None


READERS: dict[str, Callable[[Path], Any]] = {
    "dataset": read_dataset,
    "check": lambda path: len(check(path)) == 0,
    "metadata": lambda path: None if read_metadata(path) is None else True,
    "run": read_run,
    "checkpoint": read_checkpoint,
    "text model": read_text_model,
    "metrics": lambda path: [json.dumps(read_metrics(path)), drop_lines_after(path, 10**9)],
    "picture": decode_picture,
    "verify": read_verified,
    "import": read_documents,
}


def digest(value: Any) -> str:
    """A hash of nested lists, dictionaries and arrays, their types included."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes() if part.dtype != object else repr(part.tolist()).encode())
        elif isinstance(part, dict):
            for key in sorted(part):
                found.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            found.update(f"{len(part)}".encode())
            for element in part:
                add(element)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()[:16]


def answer(reader: str, path: Path) -> dict[str, Any]:
    """What comes of reading."""
    try:
        return {"kind": "read", "value": digest(READERS[reader](path))}
    except Exception as error:  # noqa: BLE001  (told apart below)
        told = _explain(error)
        kind = "raised" if told is None or not isinstance(error, ValueError | OSError) else "refused"
        text = str(error) if told is None else told[0]
        return {"kind": kind, "error": f"{type(error).__name__}: {text[:2000]}"}


def main() -> None:
    """Answers line by line."""
    SpaceTokenizer.__init__  # noqa: B018  (its module is loaded before memory is bounded)
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(answer(asked["reader"], Path(asked["path"]))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

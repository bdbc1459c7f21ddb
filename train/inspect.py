"""The stream of one timestep or document, token by token: what the model reads and where the loss asks for an answer.

    for stream in inspect_path("data/babyai-GoToObj"):     # a dataset of episodes or documents, or a run
        console.print(render(stream))                      # of gato_lite.train.token_rows

A dataset of episodes gives the first timestep of its first episode, one of documents its first picture and its first
text. A run gives a timestep of each task it was trained on: the first observation of a new episode where the task's
environment is installed, else a random member of its spaces; the action is a random one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from gato_lite.envs.dataset import Dataset, Document
from gato_lite.envs.format import INFO_FILE
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.exchange import Exchange, lay_out_exchanges
from gato_lite.names import unknown_name
from gato_lite.run import CONFIG_FILE, TaskFormat, read_run_config, read_vocabulary
from gato_lite.sequence import concatenate, plain
from gato_lite.spaces import AnySpace
from gato_lite.tokenizers.leaf import Leaf, Values
from gato_lite.tokenizers.space import SpaceTokenizer
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.episodes import tokenise_episodes, without_last
from gato_lite.train.pictures import decode_picture
from gato_lite.train.token_rows import TokenStream, token_rows

MAX_TEXT_TOKENS: Final = 40
"""Tokens of a text document that are shown; the rest is only counted."""


def inspect_path(path: Path | str, *, tasks: Sequence[str] | None = None, row: int | None = None) -> list[TokenStream]:
    """The streams of a dataset or of a run.

    Args:
        path: folder of either.
        tasks: names of a run's tasks; None takes all of them.
        row: of a dataset the episode or document of that number, counted over all parts; None takes the first.

    Raises:
        FileNotFoundError: the folder is neither.
        ValueError: a task or row that there is none of, or a damaged folder; the message names the file.
    """
    path = Path(path)
    if (path / CONFIG_FILE).is_file():
        return _run_streams(path, tasks)
    if (path / INFO_FILE).is_file():
        dataset = Dataset.open(path)
        vocabulary = Vocabulary.shipped()
        if row is not None and not 0 <= row < dataset.info.n_rows:
            raise ValueError(f"{path}: expected a row from 0 to {dataset.info.n_rows - 1}, got {row}")
        if dataset.info.kind == "control":
            return [control_stream(dataset, vocabulary, row or 0)]
        documents = dataset.read_documents()
        which = "first" if row is None else f"row {row}:"
        return document_streams(
            documents if row is None else [documents[row]], vocabulary, name=dataset.info.task, which=which
        )
    raise FileNotFoundError(f"'{path}' is neither a run ({CONFIG_FILE}) nor a dataset ({INFO_FILE})")


def control_stream(dataset: Dataset, vocabulary: Vocabulary, row: int = 0) -> TokenStream:
    """The first timestep of one episode, counted over all parts, of a dataset of episodes.

    Raises:
        ValueError: the dataset has no such episode, or is of another kind.
    """
    if not dataset.n_parts:
        raise ValueError(f"dataset '{dataset.path}' has no episode; record some first")
    ends = np.cumsum([part.rows for part in dataset.info.parts])
    part = int(ends.searchsorted(row, side="right"))
    episodes = dataset.read_part(part)
    before = int(episodes.lengths[: row - (int(ends[part - 1]) if part else 0)].sum())
    first = slice(before, before + 1)
    info = dataset.info
    return timestep_stream(
        {path: column[first] for path, column in without_last(episodes.observations, episodes.lengths).items()},
        {path: column[first] for path, column in episodes.actions.items()},
        SpaceTokenizer(dataset.observation_space, vocabulary, spec=info.spec),
        SpaceTokenizer(dataset.action_space, vocabulary, action=True),
        name=info.task,
        about=f"first timestep of {f'episode {row}' if row else 'the first recorded episode'}",
        instruction=info.instruction,
    )


def timestep_stream(
    observations: Mapping[str, Values],
    actions: Mapping[str, Values],
    observation_tokenizer: SpaceTokenizer,
    action_tokenizer: SpaceTokenizer,
    *,
    name: str,
    about: str,
    instruction: str | None,
) -> TokenStream:
    """One timestep as training lays it out.

    Args:
        observations: by leaf path a column of one value.
        actions: likewise.
        observation_tokenizer: of the task.
        action_tokenizer: of the task.
        name: of the task.
        about: where the values come from.
        instruction: what to do, in words; it comes first.
    """
    vocabulary = observation_tokenizer.vocabulary
    separator = observation_tokenizer.spec.separator
    episode = tokenise_episodes(
        observations,
        actions,
        None,
        np.ones(1, np.int64),
        observation_tokenizer=observation_tokenizer,
        action_tokenizer=action_tokenizer,
        vocabulary=vocabulary,
        separator=separator,
    )
    tokens, is_action, _ = episode.window(0, 1)
    words = vocabulary.text.encode(instruction) if instruction else np.zeros(0, np.int32)
    leaves = [
        *[("instruction", None)] * len(words),
        *_leaf_of_each("observation", observation_tokenizer, observations),
        *[("separator", None)] * separator,
        *_leaf_of_each("action", action_tokenizer, actions),
    ]
    target = np.concatenate([np.zeros(len(words), np.bool_), is_action])
    rows = token_rows(concatenate([plain(words), tokens]), target, leaves, vocabulary)
    return TokenStream(name=name, about=about, rows=tuple(rows), n_tokens=len(rows))


def document_streams(
    documents: Sequence[Document], vocabulary: Vocabulary, *, name: str, patch_size: int = 16, which: str = "first"
) -> list[TokenStream]:
    """The first document of each kind (plain text, picture, question, conversation); `patch_size` is the model's."""
    firsts: dict[str, Document] = {}
    for document in documents:
        firsts.setdefault(_kind(document), document)
    streams = []
    for kind, document in firsts.items():
        exchanges = [
            Exchange(
                image=None if turn.image is None else decode_picture(turn.image), prompt=turn.prompt, text=turn.text
            )
            for turn in document.turns
        ]
        tokens, answers = lay_out_exchanges(exchanges, vocabulary, patch_size)
        places = np.where(tokens.ids == vocabulary.patch, "picture", np.where(answers, "answer", "prompt"))
        leaves: list[tuple[str, Leaf | None]] = [(str(place), None) for place in places]
        rows = token_rows(tokens, answers, leaves, vocabulary)
        n_patch = int((tokens.ids == vocabulary.patch).sum())
        shown = tuple(rows[: max(n_patch, 1) + MAX_TEXT_TOKENS])
        streams.append(TokenStream(name=name, about=f"{which} {kind}", rows=shown, n_tokens=len(rows)))
    return streams


def _kind(document: Document) -> str:
    if document.before:
        return "document of several turns"
    if document.prompt:
        return "question" if document.image is None else "question about a picture"
    return "text" if document.image is None else "picture with its caption"


def _run_streams(run: Path, tasks: Sequence[str] | None) -> list[TokenStream]:
    config = read_run_config(run)
    vocabulary = read_vocabulary(run, config)
    known = {task.name: task for task in config.tasks}
    chosen: dict[str, TaskFormat] = {} if tasks is not None else known
    for pattern in tasks or ():
        matches = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(unknown_name("trained task", pattern, known))
        chosen.update({name: known[name] for name in matches})
    return [_task_stream(task, vocabulary) for task in chosen.values()]


def _task_stream(task: TaskFormat, vocabulary: Vocabulary) -> TokenStream:
    observation_space, action_space = task.spaces
    observation_tokenizer = SpaceTokenizer(observation_space, vocabulary, spec=task.spec)
    action_tokenizer = SpaceTokenizer(action_space, vocabulary, action=True)
    observation, about = _first_observation(task.name, observation_space)
    action_space.seed(0)
    columns = observation_tokenizer.stack([observation])
    for leaf in observation_tokenizer.leaves:
        if leaf.kind == "image" and task.spec.pixel_high is not None:  # random members know nothing of it
            columns[leaf.path] = np.minimum(columns[leaf.path], np.array(task.spec.pixel_high, np.uint8))
    return timestep_stream(
        columns,
        action_tokenizer.stack([action_space.sample()]),
        observation_tokenizer,
        action_tokenizer,
        name=task.name,
        about=about,
        instruction=task.instruction,
    )


def _first_observation(task: str, space: AnySpace) -> tuple[Any, str]:  # Any: a member of the space
    """What a new episode shows, or a random member of the space where the environment cannot be made here."""
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.envs.task import imported_module

    try:
        if imported_module(task) is not None:  # a file may not choose what is imported
            raise ValueError(task)
        env = find_tasks([task])[0].make(True)
    except (ValueError, ImportError):
        space.seed(0)
        return (
            space.sample(),
            "random members of its spaces (the environment is not installed, or would import a module)",
        )
    observation, _ = env.reset(seed=EVALUATION_SEED)
    env.close()
    return observation, "first timestep of a new episode, with a random action"


def _leaf_of_each(
    role: str, tokenizer: SpaceTokenizer, columns: Mapping[str, Values]
) -> Iterator[tuple[str, Leaf | None]]:
    """Name and leaf of each token of one value."""
    for leaf in tokenizer.leaves:
        name = f"{role}/{leaf.path}" if leaf.path else role
        for _ in range(int(leaf.encode(columns[leaf.path]).lengths.sum())):
            yield name, leaf

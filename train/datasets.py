"""From dataset folders to a mixture: opens them, makes their sources, weighs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gato_lite.envs.dataset import Dataset, Turn
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.train.abilities import ability_of
from gato_lite.train.exchanges import ExchangeSource
from gato_lite.train.mixture import Mixture
from gato_lite.train.settings import Augment, TrainConfig
from gato_lite.train.shelf import dataset_folder, shipped_folder
from gato_lite.train.sources import ControlSource, Source, TextSource

SHARED: Final = {"emoji": "emoji-captions", "text": "wordnet"}
"""For shipped datasets, the collections of the same drawings and definitions that hold out other ones."""


def open_data(name: str) -> Dataset:
    """A dataset folder, or one of the shipped datasets ("emoji", "text") by its name.

    Raises:
        FileNotFoundError: it is neither.
    """
    return Dataset.open(dataset_folder(name))


def sources_of(dataset: Dataset, vocabulary: Vocabulary, config: TrainConfig) -> list[Source]:
    """The sources in a dataset: one for control; for documents one of exchanges, one of plain text, or both.

    Raises:
        ValueError: the dataset has nothing to train on.
    """
    if dataset.info.kind == "control":
        return [ControlSource(dataset, vocabulary)]
    documents = [(row, document) for row, document in enumerate(dataset.read_documents()) if document.split == "train"]
    texts = {row: document.text for row, document in documents if document.turns == (Turn(text=document.text),)}
    others = {row: document for row, document in documents if row not in texts}
    name, origin = dataset.info.task, str(dataset.path)
    found: list[Source] = []
    if others:
        found.append(
            ExchangeSource(
                list(others.values()),
                vocabulary,
                name=name,
                patch_size=config.model(vocabulary.size).patch_size,
                augment=_augment(dataset, config),
                piece_noise=config.piece_noise,
                all_text=config.loss_on == "text",
                n_example=config.n_example,
                origin=origin,
                rows=list(others),
            )
        )
    if texts:
        own_name = name if not others else f"{name}/text"
        found.append(TextSource(list(texts.values()), vocabulary, name=own_name, origin=origin, rows=list(texts)))
    if not found:
        raise ValueError(f"dataset '{dataset.path}' has no document in its train split; import more documents")
    return found


def check_apart(datasets: Sequence[Dataset]) -> None:
    """Checks that no dataset teaches what another is scored on.

    Raises:
        ValueError: two of them do.
    """
    names = {dataset.info.task for dataset in datasets}
    folders = {dataset.path.resolve() for dataset in datasets}
    for shipped, fetched in SHARED.items():
        if fetched in names and shipped_folder(shipped) in folders:
            raise ValueError(
                f"'{shipped}' and '{fetched}' share documents and hold out different ones, so that each would teach "
                f"what the other is scored on; leave one of them out, such as by --add {shipped}=0"
            )


def _augment(dataset: Dataset, config: TrainConfig) -> Augment:
    """As the recipe says, but that no colour changes where questions may be about colours."""
    return "moved" if config.augment == "recoloured" and ability_of(dataset) == "question" else config.augment


def weighted_sources(
    data: Sequence[tuple[Dataset, float]], vocabulary: Vocabulary, config: TrainConfig
) -> list[tuple[Source, float]]:
    """Sources with their weights; a dataset of exchanges and of texts divides its weight equally."""
    weighted: list[tuple[Source, float]] = []
    for dataset, weight in data:
        found = sources_of(dataset, vocabulary, config)
        weighted += [(source, weight / len(found)) for source in found]
    return weighted


def make_mixture(weighted: Sequence[tuple[Source, float]], vocabulary: Vocabulary, config: TrainConfig) -> Mixture:
    """The mixture of weighted sources that the recipe asks for."""
    return Mixture(
        [source for source, _ in weighted],
        [weight for _, weight in weighted],
        vocabulary,
        tokens_per_step=config.tokens_per_step,
        context_length=config.context_length,
        seed=config.seed,
    )

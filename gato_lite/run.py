"""A run's folder: `config.json`, the vocabulary, and the newest checkpoint, as a `Gato` that can act.

RUN/config.json       the model's shape, the tasks it was trained on, how it was trained
RUN/vocabulary.json   the id ranges and the text model's hash
RUN/text.model        the SentencePiece model
RUN/checkpoints/      see `gato_lite.checkpoint`
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from gymnasium import Space

from gato_lite.checkpoint import Checkpoint, checkpoint_step, load_checkpoint
from gato_lite.config import ActingPrecision, GatoConfig, TokenSpec
from gato_lite.fitting import PictureFit
from gato_lite.format_version import later_version
from gato_lite.model import Gato
from gato_lite.names import unknown_field, unknown_name
from gato_lite.shelf import named_run
from gato_lite.spaces import AnySpace, space_from_json, space_to_json
from gato_lite.tensor_files import shortened
from gato_lite.tokenizers.vocabulary import Vocabulary
from gato_lite.whole import replacing

FORMAT_VERSION: Final = 1
CONFIG_FILE: Final = "config.json"
VOCABULARY_FILE: Final = "vocabulary.json"
TEXT_MODEL_FILE: Final = "text.model"
PICTURES_KEY: Final = "pictures"
"""Of what a run remembers in `training`."""


PRECISIONS: Final[dict[ActingPrecision, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Of acting and writing."""


class RunError(ValueError):
    """A run folder that is not what it says: which file, what was expected, what was found."""


class TaskFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one task that the model was trained on is spoken of."""

    name: str
    observation_space: dict[str, Any]  # Any: nested JSON of `space_to_json`
    action_space: dict[str, Any]
    spec: TokenSpec = TokenSpec()
    instruction: str | None = None

    def fits(self, observation_space: AnySpace, action_space: AnySpace) -> bool:
        """Whether an environment with these spaces could be this task."""
        return self.observation_space == space_to_json(observation_space) and self.action_space == space_to_json(
            action_space
        )

    @property
    def spaces(self) -> tuple[Space[Any], Space[Any]]:
        """Observation and action space."""
        return space_from_json(self.observation_space), space_from_json(self.action_space)


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `config.json`."""

    format_version: int = FORMAT_VERSION
    model: GatoConfig
    tasks: tuple[TaskFormat, ...] = ()
    vocabulary: str
    """Fingerprint of the vocabulary."""
    training: dict[str, Any] = {}  # Any: fields of the training configuration; --resume holds to them
    """How it was trained."""

    @property
    def pictures(self) -> tuple[PictureFit, ...]:
        """How the run's pictures were fitted, most of them first; empty where there were none, or nothing says it."""
        stored = msgspec.convert(self.training.get(PICTURES_KEY), PictureFit | tuple[PictureFit, ...] | None)
        return (stored,) if isinstance(stored, PictureFit) else stored or ()


def run_and_step(path: Path | str) -> tuple[Path, int | None]:
    """The folder of a run, and the step where `path` is that of one of its checkpoints.

    Raises:
        FileNotFoundError: as `find_run`.
    """
    folder = find_run(path)
    step = checkpoint_step(folder)
    return (folder, None) if step is None else (folder.parent.parent, step)


def find_run(path: Path | str) -> Path:
    """The run or checkpoint that `path` means.

    It is the folder itself, its `run` folder if it is what `gato-lite demo` left, or the published run of that name.

    Raises:
        FileNotFoundError: it is the name of a published run that this installation came without.
    """
    folder = named_run(path)
    inner = folder / "run"
    return inner if not (folder / CONFIG_FILE).is_file() and (inner / CONFIG_FILE).is_file() else folder


def write_run(run: Path, config: RunConfig, vocabulary: Vocabulary) -> None:
    """Writes `config.json` and the vocabulary's two files; the config comes last."""
    run.mkdir(parents=True, exist_ok=True)
    files = {
        TEXT_MODEL_FILE: vocabulary.text.model_bytes,
        VOCABULARY_FILE: vocabulary.to_json().encode(),
        CONFIG_FILE: msgspec.json.format(msgspec.json.encode(config), indent=1),
    }
    for name, data in files.items():
        with replacing(run / name) as temporary:
            temporary.write_bytes(data)


def read_run_config(run: Path | str) -> RunConfig:
    """`RUN/config.json`.

    Raises:
        FileNotFoundError: there is no run in that folder.
        RunError: the file is damaged, or of a later format.
    """
    path = run_and_step(run)[0] / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"'{run}' holds no run: expected the file {path}; train one with `gato-lite train`")
    data = path.read_bytes()
    try:
        if problem := later_version(data, FORMAT_VERSION):
            raise RunError(f"{path}: {problem}")
        config = msgspec.json.decode(data, type=RunConfig)
        stored = msgspec.json.decode(data)
        specs = [(f"tasks[{n}].spec", t.get("spec", {}), TokenSpec) for n, t in enumerate(stored.get("tasks", []))]
        for place, found, known in [("model", stored["model"], GatoConfig), *specs]:
            if problem := unknown_field(place, found, known):
                raise RunError(f"{path}: {problem}")
        _check_training(config)
    except (msgspec.DecodeError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: not a run's configuration: {error}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return config


def _check_training(config: RunConfig) -> None:
    """Raises a ValueError unless a run's datasets are pairs of a folder and a weight, and its pictures' fits such."""
    try:
        msgspec.convert(config.training.get("data", []), list[tuple[str, float]])
    except msgspec.ValidationError as error:
        raise ValueError(f"training.data: {error}") from error
    try:
        _ = config.pictures
    except msgspec.ValidationError as error:
        raise ValueError(f"training.{PICTURES_KEY}: {error}") from error


def read_vocabulary(run: Path | str, config: RunConfig) -> Vocabulary:
    """The run's vocabulary, checked against the fingerprint in its configuration.

    Raises:
        RunError: a file is missing or altered, or is another vocabulary's.
    """
    folder = run_and_step(run)[0]
    try:
        stored = (folder / VOCABULARY_FILE).read_bytes()
        vocabulary = Vocabulary.from_files(stored, (folder / TEXT_MODEL_FILE).read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{error.filename}: missing from the run; expected the vocabulary it was trained with"
        ) from error
    except ValueError as error:
        raise RunError(f"{folder / VOCABULARY_FILE}: {error}") from error
    if vocabulary.fingerprint != config.vocabulary:
        raise RunError(
            f"{folder / VOCABULARY_FILE}: the vocabulary is not the one of {CONFIG_FILE}: "
            f"expected fingerprint {config.vocabulary}, found {vocabulary.fingerprint}"
        )
    return vocabulary


def load(
    run: Path | str,
    *,
    step: int | None = None,
    device: str | torch.device = "cpu",
    precision: ActingPrecision = "float32",
) -> Gato:
    """A trained model with its vocabulary, the formats of its tasks and the size of its pictures, ready to act.

    Args:
        run: folder that `gato-lite train` or `gato-lite demo` wrote, or that of one checkpoint in it; or `generalist`,
            the run that comes with the package.
        step: which checkpoint; None takes the newest, or the one that `run` is.
        device: where the weights go.
        precision: what the matrices of the blocks, keys and values are kept and multiplied in. bfloat16 takes half of
            the memory, and on processors that multiply it wide models are faster where several slots act; small ones
            that act alone are slower. Some choices then differ from float32's, and may depend on what else is read in
            the same forward. Not for training.

    Raises:
        FileNotFoundError: there is no run or no checkpoint.
        RunError: the configuration is damaged, of a later version, of another vocabulary or of other weights.
        ValueError: an unknown precision, or a damaged checkpoint; the message then names an older one that is whole.

    Example:
        >>> gato = gato_lite.load("runs/demo")  # doctest: +SKIP
    """
    if precision not in PRECISIONS:
        raise ValueError(unknown_name("precision", precision, PRECISIONS))
    run = find_run(run)
    config = read_run_config(run)
    vocabulary = read_vocabulary(run, config)
    checkpoint = load_checkpoint(run, step=step, with_optimizer=False)
    with torch.device("meta"):  # shapes alone: a wrong width is told before its memory is asked for
        _check_weights(Gato(config.model, vocabulary), checkpoint)
    gato = Gato(config.model, vocabulary)
    load_weights(gato, checkpoint)
    gato.formats = config.tasks
    gato.pictures = config.pictures
    gato.transformer.multiply_in(PRECISIONS[precision])
    return gato.to(device).eval()


def load_weights(gato: Gato, checkpoint: Checkpoint) -> None:
    """Puts a checkpoint's weights into a model.

    Raises:
        RunError: tensors are missing, extra or misshapen; the message lists them.
    """
    _check_weights(gato, checkpoint)
    gato.load_state_dict(checkpoint.model)


def _check_weights(gato: Gato, checkpoint: Checkpoint) -> None:
    problems = weight_problems(gato, checkpoint.model)
    if problems:
        raise RunError(f"{checkpoint.path}: weights do not fit the configuration: {shortened(problems)}")
    if problem := vocabulary_problem(gato, checkpoint.state):
        raise RunError(f"{checkpoint.path}: {problem}")


def vocabulary_problem(gato: Gato, state: Mapping[str, Any]) -> str | None:  # Any: JSON
    """Whether a checkpoint's state names another vocabulary than the model's, under which ids mean other things."""
    found = state.get("vocabulary", gato.vocabulary.fingerprint)
    if found == gato.vocabulary.fingerprint:
        return None
    return f"trained with another vocabulary: expected fingerprint {gato.vocabulary.fingerprint}, found {found}"


def weight_problems(gato: Gato, weights: dict[str, torch.Tensor]) -> list[str]:
    """What keeps `weights` from being this model's, a line each."""
    expected = {name: tuple(tensor.shape) for name, tensor in gato.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    return [
        *(f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found.keys())),
        *(f"unexpected {name} {found[name]}" for name in sorted(found.keys() - expected.keys())),
        *(
            f"{name} expected {expected[name]}, found {found[name]}"
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ),
        *(
            f"{name} expected floating-point values, found {weights[name].dtype}"
            for name in sorted(expected.keys() & found.keys())
            if not weights[name].is_floating_point()
        ),
    ]


def find_format(
    formats: Sequence[TaskFormat],
    observation_space: AnySpace,
    action_space: AnySpace,
    task: str | None = None,
    *,
    quiet: bool = False,
) -> tuple[TokenSpec, str | None]:
    """Token spec and instruction for an environment.

    Args:
        formats: of the tasks that the model was trained on.
        observation_space: of the environment.
        action_space: of the environment.
        task: name of one of those tasks; None finds those with equal spaces. What they agree on is taken: tasks with
            the same spaces but other instructions leave the instruction out.
        quiet: whether it is expected that none has these spaces; otherwise there is a warning.

    Raises:
        ValueError: `task` is not among them.
    """
    if task is not None:
        named = {known.name: known for known in formats}
        if task not in named:
            raise ValueError(unknown_name("trained task", task, named))
        return named[task].spec, named[task].instruction
    fitting = [known for known in formats if known.fits(observation_space, action_space)]
    if formats and not fitting and not quiet:
        warnings.warn(
            "no task that the model was trained on has these spaces, so observations are tokenised by default; pass "
            f"task= (one of {', '.join(known.name for known in formats[:5])}, …) or spec= if it is one of them",
            stacklevel=4,
        )
    specs = {repr(known.spec): known.spec for known in fitting}
    instructions = {known.instruction for known in fitting}
    spec = next(iter(specs.values())) if len(specs) == 1 else TokenSpec()
    return spec, instructions.pop() if len(instructions) == 1 else None


def task_format(
    name: str, observation_space: AnySpace, action_space: AnySpace, spec: TokenSpec, instruction: str | None
) -> TaskFormat:
    """The format of a task, from its spaces."""
    return TaskFormat(
        name=name,
        observation_space=space_to_json(observation_space),
        action_space=space_to_json(action_space),
        spec=spec,
        instruction=instruction,
    )

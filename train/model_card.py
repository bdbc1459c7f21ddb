"""The model card of a published run, as Markdown: what it is, what it learnt from, what it reaches, its limits.

Everything in it is in the facts (`card_facts.py`); nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Final

from gato_lite.checkpoint import MODEL_FILE, read_manifest
from gato_lite.envs.catalogue import by_suite, suite_of
from gato_lite.envs.format import Ability
from gato_lite.envs.seeds import EVALUATION_SEED
from gato_lite.shelf import GENERALIST
from gato_lite.train.abilities import ability_of
from gato_lite.train.card_facts import Facts
from gato_lite.train.document_scores import DocumentScore
from gato_lite.train.published import JAT_SOURCE, PUBLISHED, plain_name, shared_tasks
from gato_lite.train.scores import Scores, SuiteScore, TaskScore
from gato_lite.train.shelf import SHIPPED
from gato_lite.train.templates import CLASS_PROMPT
from gato_lite.train.wording import in_metric, number, percent, short

WEAK: Final = 0.75
"""Mean normalised score below which a suite is called weak."""
HALF: Final = 0.5
"""Normalised score below which a task is named among the limits."""
EXAMPLE_TASK: Final = "babyai/PutNextLocal"
"""What the first command plays, where the run knows it."""
EXAMPLE_LENGTH: Final = 72
"""Characters of a prompt that is shown as an example."""
DOES: Final[dict[Ability, str]] = {
    "caption": "names pictures",
    "class": "tells the classes of pictures",
    "question": "answers questions about pictures",
    "translation": "translates",
    "dialogue": "replies",
    "text": "continues text",
}
"""What documents of each ability teach."""
POLICIES: Final = "; in MuJoCo also policies that a random search or reinforcement learning found"
"""What experts are where they are no programs."""
LIMITS: Final = ("The intervals are of these weights. Another training seed usually changes more than they say.",)
"""Of any run."""
ACTING_LIMITS: Final = (
    "It acts in simulators, those that it was trained in. Nothing is claimed of other environments or real machines.",
    "No safety is claimed. An action is a member of its space, no more: let it steer nothing that can do harm.",
    "A score of 1 is the catalogue's expert, a program, not the best that can be reached.",
)
"""Of a run that acts."""


def model_card(facts: Facts, published: Path) -> str:
    """The card.

    Args:
        facts: of the run.
        published: folder of the published run, whose hash the card names.
    """
    sections = [
        _introduction(facts),
        _use(facts),
        _training(facts),
        _data(facts),
        _scores(facts),
        _limits(facts),
        _weights(facts, published),
        _tasks(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(facts: Facts) -> str:
    shape = facts.gato.config
    n_task = len(facts.gato.formats)
    does = [f"plays {n_task} task{'s' * (n_task != 1)}"] if n_task else []
    does += [f"{word} ({_listed(names)})" for ability, word in DOES.items() if (names := _names(facts, ability))]
    done = _listed(does) if does else "learnt nothing that its configuration names"
    return (
        f"# {facts.name}: model card\n\n"
        f"One set of weights that {done}. It is a decoder-only Transformer of "
        f"{facts.gato.n_parameters / 1e6:.2f} million parameters: {shape.n_layer} layers of width {shape.d_model} with "
        f"{shape.n_head} heads, and {shape.context_length} tokens of context. It comes with gato_lite; "
        f"`python -m gato_lite.train.ship_run` wrote this page."
    )


def _use(facts: Facts) -> str:
    names = [task.name for task in facts.gato.formats]
    commands = []
    if names:
        task = EXAMPLE_TASK if EXAMPLE_TASK in names else names[0]
        run = "" if facts.name == GENERALIST else f" --run {facts.name}"
        commands.append(f"gato-lite play {task}{run} --video film.mp4")
        commands.append(f"gato-lite eval {facts.name} --tasks '{suite_of(task)}/*' --episodes 100")
    if _names(facts, "text"):
        commands.append(f'gato-lite prompt {facts.name} "She was not" --max-tokens 40')
    if _names(facts, "caption"):
        commands.append(f"gato-lite prompt {facts.name} --image picture.png")
    if _names(facts, "class"):
        commands.append(f'gato-lite prompt {facts.name} --image picture.png "{CLASS_PROMPT}"')
    if _names(facts, "question"):
        commands.append(f'gato-lite prompt {facts.name} --image picture.png "what color is the shape?"')
    if asked := _translations(facts):
        commands.append(f'gato-lite prompt {facts.name} "{asked[0]}"')
    body = "\n".join(commands)
    return (
        f"## How to use it\n\n```bash\n{body}\n```\n\n"
        f'In Python, `gato_lite.load("{facts.name}")` gives the model. No training and no download: the weights are in '
        "the package."
    )


def _training(facts: Facts) -> str:
    training = facts.training
    tokens = facts.step * int(training["tokens_per_step"])
    in_cpu = "" if facts.cpu_minutes is None else f" ({facts.cpu_minutes:.1f} of CPU time)"
    asking_cpu = "" if facts.asking_cpu_minutes is None else f" ({facts.asking_cpu_minutes:.0f} of CPU time)"
    asked = ""
    if facts.rounds:
        steps = _listed(f"{step:,}" for step in facts.rounds)
        asked = (
            f" After {steps} steps the model acted itself and the experts said what they would have done in its "
            f"episodes, which took {facts.asking_minutes:.0f} minutes more{asking_cpu}."
        )
    begun = f" It began with the weights of the run `{Path(training['init']).name}`." if "init" in training else ""
    return (
        f"## How it was trained\n\n`{facts.command}`, on {facts.machine}: {facts.step:,} steps in "
        f"{facts.minutes:.1f} minutes of training{in_cpu}, about {tokens / 1e6:,.1f} million tokens "
        f"({training['tokens_per_step']:,} a step).{asked}{begun} Optimiser: {training['optimiser']}; preset: "
        f"{training['preset']}; seed: {training['seed']}. It is one run, and it learnt from episodes and documents "
        "alone: there was no reinforcement learning."
    )


def _data(facts: Facts) -> str:
    parts = ["## What it was trained on"]
    if facts.suites:
        head = ("suite", "tasks", "episodes of experts", "timesteps", "own episodes labelled by experts")
        rows = [
            (name, *(f"{n:,}" for n in (suite.tasks, suite.episodes, suite.timesteps, suite.asked)))
            for name, suite in facts.suites.items()
        ]
        parts.append(_table(head, rows))
        versions = ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items()))
        parts.append(
            "The experts are programs: rules, planners, controllers, the scripts and bots that come with the suites"
            f"{POLICIES if 'mujoco' in facts.suites else ''}. Episodes were recorded with {versions}."
        )
    told = [
        f"- `{info.task}`, {info.n_rows:,} documents, a part of which was held out. "
        f"Licence: {info.licence or 'not known'}. {info.attribution or ''}".rstrip()
        for info in (dataset.info for dataset in facts.documents)
    ]
    parts += ["\n".join(told)] if told else []
    if not facts.suites and not told:
        parts.append("The run's configuration does not name it.")
    parts.append(
        "The licences of what comes with the package are in `gato_lite/data/LICENSES.md`. The weights are under the "
        "Apache License 2.0, as the code."
    )
    return "\n\n".join(parts)


def _scores(facts: Facts) -> str:
    scores = facts.scores
    if scores is None:
        return "## What it reaches\n\nIt was not scored."
    parts = ["## What it reaches"]
    if scores.tasks:
        parts += [_how_measured(facts, scores), _suite_table(scores)]
    if scores.scored_tasks:
        parts.append(f"![Share of tasks above each percentage of the expert's score]({facts.name}.svg)")
        parts.append(_published(scores))
    if scores.documents:
        rows = [
            (f"`{name}`", found.metric, _document_score(found), f"{found.n:,}", beside)
            for name, found in scores.documents.items()
            for beside in [", ".join(f"{what} {number(value)}" for what, value in found.baselines.items())]
        ]
        fetched = [dataset.info.task for dataset in facts.documents if dataset.info.task not in SHIPPED]
        most = max(found.n for found in scores.documents.values())
        again = (
            f" The same again, where `gato-lite data fetch` has brought the collections to `data`: `gato-lite eval "
            f"{facts.name} --tasks 'vision/*' 'text/*' --documents {most}`."
        )
        parts.append(f"Held-out pictures and texts, beside what needs no understanding.{again if fetched else ''}")
        parts.append(_table(("documents", "metric", "score (95 %)", "n", "beside"), rows))
    return "\n\n".join(part for part in parts if part)


def _document_score(found: DocumentScore) -> str:
    """The score, and of translations that of each kind of text: they are as different as the kinds."""
    score = _with_interval(found.mean, found.low, found.high)
    if found.ability != "translation" or len(found.groups) < 2:
        return score
    return f"{score}: " + ", ".join(f"{name} {number(mean)} ({n:,})" for name, (mean, n) in found.groups.items())


def _published(scores: Scores) -> str:
    """Beside JAT, on the tasks that both were scored on; empty where there are none."""
    rows, told = [], []
    for suite, published in PUBLISHED.items():
        if names := shared_tasks(suite, published, scores):
            ours = mean(scores.tasks[name].normalised or 0.0 for name in names)
            jat = mean(published.jat[plain_name(name)] for name in names)
            rows.append((suite, f"{len(names)}", number(ours), number(jat)))
            told.append(f"{suite}: {published.differs}.")
    if not rows:
        return ""
    table = _table(("suite", "tasks that both were scored on", "this model", "JAT, 193 million parameters"), rows)
    about = f"Means of normalised scores; {JAT_SOURCE}. What differs, in {' '.join(told)}"
    return f"{table}\n\n{about} JAT's levels and seeds are its own."


def _how_measured(facts: Facts, scores: Scores) -> str:
    played = [score.episodes + score.failed for score in scores.tasks.values()]
    seeds = sorted({score.seed for score in scores.tasks.values()})
    command = f"gato-lite eval {facts.name}"
    trained = {task.name for task in facts.gato.formats}
    left_out = sorted(trained - scores.tasks.keys())
    if left_out:
        command += " --tasks " + " ".join(f"'{suite}/*'" for suite in by_suite(scores.tasks))
    command += f" --episodes {max(played)}" + (f" --seed {seeds[0]}" if seeds != [EVALUATION_SEED] else "")
    told = (
        f"A normalised score is 0 for random actions and 1 for the task's expert. Each task was played on "
        f"{max(played)} seeded episodes, the same for everyone, from seed {seeds[0]:,} on, of which no training data "
        f"was made; actions are the likeliest ones, of continuous ones the medians. Intervals are 95 % bootstrap ones "
        f"over episodes. The same again: `{command} --json eval.json`."
    )
    if failed := sum(score.failed for score in scores.tasks.values()):
        told += f" {failed} of {sum(played)} episodes failed in their environments and are in no score."
    if left_out:
        told += f" Trained on but not scored: {_listed(left_out)}."
    return told


def _suite_table(scores: Scores) -> str:
    head = ("suite", "tasks", "mean", "median", "IQM", "tasks ≥ 50 % of the expert", "≥ 80 %", "≥ 90 %")
    body = [
        (
            "**all**" if name == "all" else name,
            str(suite.n_scored),
            *(_suite_value(suite, kind) for kind in ("mean", "median", "iqm")),
            *(_suite_share(suite, kind) for kind in ("above_50", "above_80", "above_90")),
        )
        for name, suite in scores.suite_rows
    ]
    return _table(head, body)


def _suite_value(suite: SuiteScore, kind: str) -> str:
    return _with_interval(getattr(suite, kind), *suite.intervals.get(kind, (None, None)))


def _suite_share(suite: SuiteScore, kind: str) -> str:
    share: float | None = getattr(suite, kind)
    if share is None or kind not in suite.intervals:
        return percent(share)
    low, high = suite.intervals[kind]
    return f"{percent(share)} ({100 * low:.0f}–{100 * high:.0f})"


def _limits(facts: Facts) -> str:
    points = [*(ACTING_LIMITS if facts.gato.formats else ()), *LIMITS]
    if facts.scores is not None:
        points += _weak(facts.scores)
    if texts := _names(facts, "text"):
        points.append(
            f"Its text goes on in the manner of what it has read ({_listed(texts)}). It knows few facts, and follows "
            "no instructions beyond those of its tasks and documents."
        )
    if pictures := _names(facts, "caption", "class", "question"):
        points.append(f"Of pictures it knows those of {_listed(pictures)}, and little else.")
    if names := _names(facts, "translation"):
        points.append(f"It translates such sentences as {_listed(names)} has; what it makes of others is often wrong.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _weak(scores: Scores) -> list[str]:
    """What it is worst at."""
    means = {name: suite.mean for name, suite in scores.suites.items() if suite.mean is not None}
    weak = sorted((mean, name) for name, mean in means.items() if mean < WEAK)
    found = []
    if weak:
        told = _listed(f"{name} ({number(mean)})" for mean, name in weak)
        found.append(f"Weak suites, with a mean below {WEAK}: {told}.")
    elif means:
        mean, name = min((mean, name) for name, mean in means.items())
        found.append(f"No suite has a mean below {WEAK}; the lowest is {name} ({number(mean)}).")
    scored = {name: score.normalised for name, score in scores.tasks.items() if score.normalised is not None}
    low = sorted((value, name) for name, value in scored.items() if value < HALF)
    if low:
        told = _listed(f"`{name}` ({number(value)})" for value, name in low)
        found.append(f"Below half of the expert, {len(low)} of {len(scored)} tasks: {told}.")
    return found


def _weights(facts: Facts, published: Path) -> str:
    folder = next(iter(published.glob("checkpoints/step_*")))
    record = read_manifest(folder).files[MODEL_FILE]
    place = folder.relative_to(published).as_posix()
    return (
        f"## The weights\n\n`gato_lite/data/runs/{facts.name}/{place}/{MODEL_FILE}`, float32 as safetensors, "
        f"{record.size:,} bytes, SHA-256\n\n    {record.sha256}\n\n"
        "The hash is in `manifest.json` beside them too, and is checked whenever they are loaded; "
        f"`gato-lite verify {facts.name}` checks all files."
    )


def _tasks(facts: Facts) -> str:
    if facts.scores is None or not facts.scores.tasks:
        return ""
    parts = ["## Every task"]
    for suite, names in by_suite(facts.scores.tasks).items():
        rows = [_task_row(name, facts.scores.tasks[name]) for name in names]
        parts += [f"### {suite}", _table(("task", "score", "random", "expert", "normalised (95 %)", "episodes"), rows)]
    return "\n\n".join(parts)


def _task_row(name: str, score: TaskScore) -> tuple[str, ...]:
    """Success as a percentage, returns as numbers."""
    ends = [in_metric(score, value, 1) for value in (score.mean, score.random, score.expert)]
    return f"`{short(name)}`", *ends, _with_interval(score.normalised, score.low, score.high), str(score.episodes)


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    return number(value) if low is None or high is None else f"{number(value)} ({number(low)}–{number(high)})"


def _names(facts: Facts, *abilities: Ability) -> list[str]:
    """Of the datasets of documents that teach one of these, as code."""
    return [f"`{dataset.info.task}`" for dataset in facts.documents if ability_of(dataset) in abilities]


def _translations(facts: Facts) -> list[str]:
    """Short held-out sentences that it can be asked to translate."""
    sets = (dataset for dataset in facts.documents if ability_of(dataset) == "translation")
    asked = (document.prompt for dataset in sets for document in dataset.read_documents("test"))
    return [prompt for prompt in asked if len(prompt) <= EXAMPLE_LENGTH and '"' not in prompt and prompt.isascii()]


def _listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

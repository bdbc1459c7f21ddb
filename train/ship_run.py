"""Publishes a run: what acting takes of it goes to `gato_lite/data/runs/NAME`, its model card to `docs/NAME.md`.

The card's figure lies beside it.

    gato-lite eval RUN --json eval.json
    python -m gato_lite.train.ship_run RUN --name generalist --scores eval.json

It is called in the folder in which the run was trained, because the card counts the episodes that the run's
configuration names. The same run gives the same bytes. Nobody needs this to use gato_lite.

What is left behind: the optimizer, older checkpoints, metrics, the recordings. What is changed: of absolute paths the
last part is kept, of datasets' as if it were in `data`. Weights stay float32, as they were trained.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

import gato_lite
from gato_lite.checkpoint import load_checkpoint, save_checkpoint
from gato_lite.envs.recording import folder_name
from gato_lite.names import unknown_name
from gato_lite.run import CONFIG_FILE, find_run, load, read_run_config, write_run
from gato_lite.shelf import GENERALIST, RUNS
from gato_lite.train.card_facts import collect_facts
from gato_lite.train.card_figure import draw
from gato_lite.train.model_card import model_card
from gato_lite.train.plans import PLANS, Plan, find_plan
from gato_lite.train.recipes import RECIPES
from gato_lite.train.report_data import machine
from gato_lite.train.run_folder import LENGTHS
from gato_lite.train.saved_scores import read_scores
from gato_lite.train.shelf import shipped_name

MOST_BYTES: Final = 40_000_000
"""Of a published run, all its files together."""
DOCS: Final = Path(gato_lite.__file__).parent.parent / "docs"
"""Where model cards are."""
_FREE: Final = ("preset", "seed", "accumulate", "log_every", "checkpoint_every_s", "evaluate_every_s")
"""What a run may have other than its recipe: options of the command, and what does not change the weights."""


def publish(run: Path, name: str, out: Path = RUNS) -> Path:
    """Copies the newest checkpoint of a run, without its optimizer, and what it takes to load it.

    Args:
        run: its folder.
        name: of the published run; one of that name is replaced.
        out: folder of the published runs.

    Returns:
        Its folder.

    Raises:
        FileNotFoundError: there is no run or no checkpoint.
        FileExistsError: what is there under that name is no published run.
        RunError, ValueError: it is damaged, published already, or larger than `MOST_BYTES`.
    """
    run, target = find_run(run), out / name
    if target.parent != out:
        raise ValueError(f"expected a name without folders, got '{name}'")
    if target.exists() and not _is_published(target):
        raise FileExistsError(f"'{target}' is no published run; delete it yourself, or take another name")
    config, gato = read_run_config(run), load(run)
    if _is_published(run):
        raise ValueError(f"'{run}' is published already; give the run that it was made of")
    checkpoint = load_checkpoint(run, with_optimizer=False)
    partial = out / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    training = {**_portable(config.training), "published": name}
    write_run(partial, msgspec.structs.replace(config, training=training), gato.vocabulary)
    state = {key: value for key, value in checkpoint.state.items() if key != "meter"}
    folder = save_checkpoint(partial, checkpoint.step, model=checkpoint.model, optimizer={}, state=state)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors makes files that nobody else may read
    n_bytes = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    if n_bytes > MOST_BYTES:
        shutil.rmtree(partial)
        raise ValueError(
            f"a published run may have {MOST_BYTES / 1e6:.0f} MB, all of it as float32; '{run}' would have "
            f"{n_bytes / 1e6:.1f} MB: train a smaller preset"
        )
    shutil.rmtree(target, ignore_errors=True)
    return partial.rename(target)


def _is_published(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and "published" in read_run_config(folder).training


def _portable(training: Mapping[str, Any]) -> dict[str, Any]:  # Any: as RunConfig.training
    """How a run was trained, without the places on the machine that it was trained on."""
    changed = dict(training)
    changed["data"] = [[_shown(folder), weight] for folder, weight in training.get("data", [])]
    changed |= {key: _last(training[key]) for key in ("init", "text_model") if key in training}
    return changed


def _shown(folder: str) -> str:
    """A dataset's folder as if it were where `gato-lite data fetch` puts it, where one finds it again by this name."""
    shipped = shipped_name(folder)
    return shipped or (f"data/{Path(folder).name}" if Path(folder).is_absolute() else folder)


def _last(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def training_command(training: Mapping[str, Any], name: str) -> str:  # Any: as RunConfig.training
    """The command that trains the recipe called `name` as the run was trained.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"{unknown_name('recipe', name, RECIPES)}; say with --command how the run was trained")
    recipe = asdict(RECIPES[name]())
    words = ["gato-lite", "train", name]
    words += [f"--{key} {training[key]}" for key in ("preset", "seed") if training.get(key, recipe[key]) != recipe[key]]
    lengths = {key: training.get(key) for key in LENGTHS}
    words += [f"--{key.replace('_', '-')} {value:.12g}" for key, value in lengths.items() if value is not None]
    data, plan = training.get("data", []), find_plan(name) if name in PLANS else Plan(tasks=[])
    recorded = {*map(folder_name, plan.parts())}
    weights = {shipped: weight for folder, weight in data if (shipped := shipped_name(folder)) in plan.documents}
    others = [
        (_shown(folder), weight)
        for folder, weight in data
        if Path(folder).name not in recorded and shipped_name(folder) not in plan.documents
    ]
    if len(others) < len(data):  # beside the recipe's own, some of which may have been left out or weighed anew
        usual = plan.documents.items()
        changed = {shipped: weights.get(shipped, 0.0) for shipped, weight in usual if weights.get(shipped) != weight}
        words += ["--add"] * bool(changed or others)
        others = [*changed.items(), *others]
    else:
        words += ["--data"] * bool(others)
    words += [f"{shlex.quote(folder)}={weight:g}" for folder, weight in others]
    other = [key for key, value in recipe.items() if key not in _FREE and training.get(key, value) != value]
    if other:
        words += ["--set", *(f"{key}={'null' if training[key] is None else training[key]}" for key in other)]
    files = {"init": "--init", "text_model": "--text-model"}
    words += [f"{option} {_last(training[key])}" for key, option in files.items() if key in training]
    return " ".join([*words, "--out", f"runs/{name}"])


def main(argv: list[str] | None = None) -> None:
    """Reads the command line, publishes the run and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--name", default=GENERALIST, help="of the published run")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="what `gato-lite eval RUN --json FILE` wrote")
    parser.add_argument("--command", help="what trained it; by default made of the recipe called NAME")
    parser.add_argument("--machine", default=machine(), help="what it was trained on; by default this machine")
    parser.add_argument("--out", type=Path, default=RUNS, metavar="DIR", help="folder of the published runs")
    parser.add_argument("--card", type=Path, metavar="FILE", help="the model card; by default docs/NAME.md")
    arguments = parser.parse_args(argv)
    card = arguments.card or DOCS / f"{arguments.name}.md"
    try:
        if card.is_dir():
            raise IsADirectoryError(f"{card}: expected a file for the card, found a folder")
        config = read_run_config(arguments.run)
        facts = collect_facts(
            find_run(arguments.run),
            name=arguments.name,
            command=arguments.command or training_command(config.training, arguments.name),
            machine=arguments.machine,
            scores=None if arguments.scores is None else read_scores(arguments.scores),
        )
        published = publish(arguments.run, arguments.name, arguments.out)
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(model_card(facts, published), "utf-8")
        if facts.scores is not None and facts.scores.scored_tasks:
            draw(facts.scores, card.with_name(f"{arguments.name}.svg"))
    except (ValueError, OSError) as error:
        sys.exit(f"ship_run: error: {error}")
    n_bytes = sum(file.stat().st_size for file in published.rglob("*") if file.is_file())
    print(f"{published}: {n_bytes / 1e6:.1f} MB; its card: {card}")


if __name__ == "__main__":
    main()

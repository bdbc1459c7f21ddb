"""The command line with a model so small that a step takes milliseconds, for the tests of training to start and kill.

    python training_child.py WORD…   gato-lite WORD…
    python training_child.py         starts commands that are asked for: a line of JSON in, a process id out, and
                                     an exit code where it is waited for; each is a process forked after the imports

A checkpoint is written after every step, and a line of metrics.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tensorboard.compat.proto.event_pb2  # noqa: F401

import gato_lite.train.commands.train  # noqa: F401
from gato_lite.config import PRESETS, GatoConfig
from gato_lite.train import loop, plans, training
from gato_lite.train.cli import main
from gato_lite.train.evaluate import evaluator
from gato_lite.train.plans import Plan
from gato_lite.train.recipes import RECIPES
from gato_lite.train.settings import TrainConfig

PRESETS["fault"] = GatoConfig(n_layer=1, n_head=1, d_model=4, d_ff=8, d_encoder=4)
RECIPE = TrainConfig(
    preset="fault", context_length=48, tokens_per_step=192, warmup_steps=5, log_every=1, checkpoint_every_s=0.0
)
RECIPES["fault"] = lambda: RECIPE
RECIPES["fault-score"] = lambda: replace(RECIPE, checkpoint_every_s=1e9, evaluate_every_s=0.0)
"""Scores after every step, and saves nothing before it ends."""
RECIPES["fault-rate"] = lambda: replace(RECIPE, learning_rate=1e30, warmup_steps=1)
"""Weights of 1e30 after one step, and so no finite loss."""
RECIPES["fault-large"] = lambda: replace(RECIPE, tokens_per_step=30_000)
"""Steps of half a gigabyte."""
DEMO = plans.PLANS["demo"]
loop.matmul_peak = lambda _device, precision: 1e9  # measuring takes a quarter of a second
loop.RETRY_S = 0.02
training.evaluator = partial(evaluator, episodes=200)
"""So many episodes that no evaluation ends before a signal comes, however busy the machine."""


def one_task() -> Plan:
    """The demo's plan with one task of its 21."""
    plan = DEMO()
    return replace(plan, tasks=[{"classic/CartPole": plan.parts()["classic/CartPole"]}])


def command(words: list[str], log: Path, patience: int | None) -> int:
    """Runs `gato-lite` in this process, all that it prints in `log`."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    if patience is not None:
        loop.MAX_REFUSED = patience
    try:
        return main(words)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001  (as Python ends)
        traceback.print_exc()
        return 1


def serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.environ.update(asked["environment"])
            if "GATO_LITE_FAULT_DEMO" in os.environ:
                plans.PLANS["demo"] = one_task
            code = command(asked["words"], Path(asked["log"]), asked["patience"])
            os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:])) if sys.argv[1:] else serve()

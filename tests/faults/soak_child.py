"""The processes that the soak runs: `gato-lite` with a recipe small enough to be killed often, and one that acts.

python soak_child.py cli WORD …                  gato-lite, with the recipes "soak" and "soak-long"
python soak_child.py act RUN FOLDER SECONDS      evaluate and act with RUN again and again, in one process
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from gato_lite.config import PRESETS, GatoConfig
from gato_lite.train.cli import main
from gato_lite.train.recipes import RECIPES
from gato_lite.train.settings import TrainConfig

TASKS = ("classic/CartPole", "babyai/GoToObj", "sokoban/Sokoban7x7")
"""What is recorded, trained and evaluated: a vector, words with a grid, and a grid."""


def add_recipes() -> None:
    """Adds a tiny preset and two recipes of it: checkpoints every second, or every minute with evaluations between."""
    PRESETS["soak"] = GatoConfig(n_layer=2, n_head=1, d_model=64, d_ff=128, n_grid_head=2)
    tiny: dict[str, Any] = {"preset": "soak", "context_length": 96, "tokens_per_step": 512}  # Any: fields of all types
    RECIPES["soak"] = lambda: TrainConfig(**tiny, checkpoint_every_s=1.0, log_every=1)
    RECIPES["soak-long"] = lambda: TrainConfig(**tiny, checkpoint_every_s=60.0, evaluate_every_s=120.0, log_every=50)


def act(run: Path, folder: Path, seconds: float) -> None:
    """Runs `eval` and plays with one `Policy`, in turns, and rests three times as long; a line in `acted.jsonl` each.

    The policy lives as long as the process, so that what it keeps of past episodes would show.
    """
    from gato_lite.envs.catalogue import find_tasks
    from gato_lite.policy import Policy
    from gato_lite.run import load

    end = time.monotonic() + seconds
    envs = [task.make() for task in find_tasks(TASKS)]
    policy = Policy(load(run), [env.observation_space for env in envs], [env.action_space for env in envs])
    observations = [env.reset(seed=index)[0] for index, env in enumerate(envs)]
    rounds = timesteps = episodes = 0
    while time.monotonic() < end:
        start = time.monotonic()
        scores = folder / "scores.json"
        words = ["eval", str(run), "--episodes", "2", "--workers", "1", "--json", str(scores), "--overwrite"]
        if code := main(words):
            sys.exit(f"eval ended with {code}")
        for _ in range(300):
            actions = policy.act(observations)
            ended = [False] * len(envs)
            for index, (env, action) in enumerate(zip(envs, actions, strict=True)):
                observations[index], _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    ended[index] = True
                    observations[index], _ = env.reset()
            if any(ended):
                policy.reset(ended)
            timesteps += len(envs)
            episodes += sum(ended)
        rounds += 1
        line = {"rounds": rounds, "timesteps": timesteps, "episodes": episodes}
        with (folder / "acted.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(min(3 * (time.monotonic() - start), max(end - time.monotonic(), 0.0)))


if __name__ == "__main__":
    add_recipes()
    if sys.argv[1] == "cli":
        sys.exit(main(sys.argv[2:]))
    act(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))

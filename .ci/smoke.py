"""Run away from the sources: every module of the installed package imports, and a value survives its tokens."""

import importlib
from pathlib import Path

import gymnasium as gym
import numpy as np

import gato_lite

root = Path(gato_lite.__file__).parent
assert "site-packages" in root.parts, f"expected the installed package, got {root}"
modules = sorted(
    ".".join(("gato_lite", *path.relative_to(root).with_suffix("").parts))
    for path in root.rglob("*.py")
    if path.stem not in {"__init__", "__main__"}
)
for name in modules:
    importlib.import_module(name)
for name in gato_lite.__all__:
    getattr(gato_lite, name)
space = gym.spaces.Dict({"grid": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8), "mission": gym.spaces.Text(32)})
tokenizer = gato_lite.SpaceTokenizer(space)
value = space.sample()
back = tokenizer.decode(tokenizer.encode(value))
assert back["mission"] == value["mission"]
assert np.array_equal(back["grid"], value["grid"])
print(f"{len(modules)} modules imported from {root}")

"""Holds what the layout promises: who imports whom, symlinks, listed packages, lazy public names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import gato_lite

ROOT = Path(__file__).parent.parent
FOLDERS = ("envs", "tokenizers", "train")
SHARED = {"gato_lite.config", "gato_lite.names", "gato_lite.sequence"}
MAY_IMPORT = {
    "tokenizers": {*SHARED, "gato_lite.spaces", "gato_lite.tokenizers"},
    "envs": {
        *SHARED,
        "gato_lite.envs",
        "gato_lite.fitting",
        "gato_lite.format_version",
        "gato_lite.lock",
        "gato_lite.spaces",
        "gato_lite.tokenizers",
        "gato_lite.whole",
    },
}
"""What of ours the files in a folder may import; train may import everything, gato_lite all but envs and train."""


def sources(folder: str) -> list[Path]:
    below = (path for path in (ROOT / folder).glob("*/*.py") if not path.parent.is_symlink())
    return sorted([*(ROOT / folder).glob("*.py"), *below])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every module that the file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: expected an absolute import"
            if node.module == "gato_lite":
                exports = gato_lite._MODULES
                yield from ((node.lineno, exports.get(a.name, f"gato_lite.{a.name}")) for a in node.names)
            elif node.module in {f"gato_lite.{folder}" for folder in FOLDERS}:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("folder", ["gato_lite", *FOLDERS])
def test_import_rules(folder: str) -> None:
    broken = []
    for path in sources(folder):
        if path.name == "__init__.py":
            continue  # the lazy public names
        for line, module in imported(path):
            ours = within(module, {"gato_lite"})
            if folder == "gato_lite":
                allowed = not within(module, {"gato_lite.envs", "gato_lite.train"})
            else:
                allowed = not ours or within(module, MAY_IMPORT.get(folder, {"gato_lite"}))
            if folder in MAY_IMPORT and within(module, {"torch"}):
                allowed = False  # recording and tokenising run in many small processes
            if not allowed or within(module, set(FOLDERS) - {"tokenizers"}):
                broken.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("folder", FOLDERS)
def test_symlinks(folder: str) -> None:
    link = ROOT / "gato_lite" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..", folder)


def test_only_the_package_itself_has_an_init_file() -> None:
    found = [path for folder in (*FOLDERS, "tests", "docs") for path in (ROOT / folder).rglob("__init__.py")]
    assert found == [], "a root folder with __init__.py hides the package of that name from whoever stands here"


def test_every_package_is_listed_once() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    on_disk = {"gato_lite": "gato_lite"}
    for top in ("gato_lite", *FOLDERS):
        for path in (ROOT / top).rglob("*.py"):
            folder = path.parent.relative_to(ROOT)
            if top == "gato_lite" and len(folder.parts) > 1 and folder.parts[1] in FOLDERS:
                continue  # through a symlink
            name = ".".join(folder.parts if top == "gato_lite" else ("gato_lite", *folder.parts))
            on_disk[name] = folder.as_posix()
    assert setuptools["package-dir"] == on_disk
    assert sorted(setuptools["packages"]) == sorted(on_disk)


def test_what_scores_and_formats_hold_for_is_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    pinned = ("babyai", "control", "robotics", "atari", "deepmind", "minari")
    loose = [needed for extra in pinned for needed in extras[extra] if "==" not in needed]
    assert loose == []


def test_tests_mirror_the_folders() -> None:
    for folder in ("gato_lite", *FOLDERS):
        known = {path.stem for path in sources(folder)}
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            stem = path.stem.removeprefix("test_")
            assert any(stem == name or stem.startswith(f"{name}_") for name in known), f"{path} mirrors no file"


@pytest.mark.parametrize("name", gato_lite.__all__)
def test_public_names(name: str) -> None:
    value = getattr(gato_lite, name)
    assert callable(value)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(gato_lite)


def test_public_names_are_declared_alike() -> None:
    tree = ast.parse(Path(gato_lite.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == gato_lite._MODULES
    assert sorted(typed) == gato_lite.__all__ == sorted(gato_lite.__all__)


def test_an_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="module 'gato_lite' has no attribute 'Gata'; public names are Chat, "):
        gato_lite.Gata  # noqa: B018


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys, gato_lite, gato_lite.train.cli\n"
        "heavy = {'torch', 'gymnasium', 'minigrid', 'pyarrow', 'tensorboard', 'sentencepiece', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import gato_lite.generate\n"
        "print(callable(gato_lite.generate))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "True"]

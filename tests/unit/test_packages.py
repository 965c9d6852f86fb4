"""What is installed is what is in the tree: images are made of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_of_the_tree_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "operator" / "kubebee").rglob("*.py")}
    here = {".".join(folder.relative_to(ROOT / "operator").parts) for folder in folders}
    assert here <= set(listed), "add it to packages in pyproject.toml"

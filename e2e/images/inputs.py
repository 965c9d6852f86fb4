"""Which files an image is made of, as one hash: an image whose inputs are unchanged is not built again."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FILES = ("Dockerfile", ".dockerignore", "README.md", "pyproject.toml", "setup.py")
_FOLDERS = ("images", "operator", "templates")
_LEFT_OUT = frozenset({"__pycache__", "kubebee.egg-info"})


def files() -> Iterator[Path]:
    """What the build sees, as .dockerignore has it, in a fixed order."""
    yield from (ROOT / name for name in _FILES)
    yield from sorted(ROOT.glob("requirements-*.lock"))
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".so" and not _LEFT_OUT & set(path.parts):
                yield path


def digest() -> str:
    """Hash of all inputs: names, contents and whether they can be executed."""
    total = hashlib.sha256()
    for path in files():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(ROOT)} {path.stat().st_mode & 0o111:o} {content}\n".encode())
    return total.hexdigest()


def version() -> str:
    """The project's version, which is the images' tag."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return str(project["project"]["version"])

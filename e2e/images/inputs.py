"""Which files an image is made of, as one hash: an image whose inputs are unchanged is not built again."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FILES = ("Dockerfile", ".dockerignore", "README.md", "pyproject.toml", "setup.py")
_FOLDERS = ("images", "operator", "templates")
_LEFT_OUT = frozenset({"__pycache__", "kubebee.egg-info"})


def files(root: Path = ROOT) -> Iterator[Path]:
    """What the build sees, as .dockerignore has it, in a fixed order."""
    yield from (root / name for name in _FILES)
    yield from sorted(root.glob("requirements-*.lock"))
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix != ".so" and not _LEFT_OUT & set(path.parts):
                yield path


def digest(root: Path = ROOT) -> str:
    """Hash of all inputs: names, contents and whether they can be executed."""
    total = hashlib.sha256()
    for path in files(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root)} {path.stat().st_mode & 0o111:o} {content}\n".encode())
    return total.hexdigest()


def snapshot(to: Path) -> str:
    """Copy all inputs, as they are now, to an empty folder, and return their hash.

    The tree may change while an image is built, and the hash must be of what is in the image.
    """
    for path in files():
        copy = to / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return digest(to)


def version() -> str:
    """The project's version, which is the images' tag."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return str(project["project"]["version"])

"""Shared libraries by the name the dynamic linker knows them by."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kubebee.errors import KubebeeError

_LINE = re.compile(r"^\s*(?P<name>\S+) \((?P<kind>[^)]*)\) => (?P<path>\S+)$", re.MULTILINE)
_CACHE = "etc/ld.so.cache"
_FOLDERS = ("usr/local/lib", "lib/*-linux-gnu", "usr/lib/*-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib")
"""Where libraries are if there is no cache to say it: multiarch as of Debian, lib64 as of others."""


class LibraryError(KubebeeError):
    """The dynamic linker knows no such library."""

    reason = "LibraryNotFound"


def find_library(name: str, root: Path = Path("/")) -> Path:
    """Path of a library: "libc.so.6", "libc.so" or "libc" all name the first that matches.

    Args:
        name: of the library.
        root: folder that has the file system it is looked for in; the path that is returned begins there.

    Raises:
        LibraryError: there is none.
    """
    cached = root == Path("/") or (root / _CACHE).is_file()
    for known, path in _cached(root) if cached else _in_folders(root):
        if known == name or known.startswith((f"{name}.", f"{name}-")):
            return path.resolve() if root == Path("/") else path
    raise LibraryError(
        "the dynamic linker of this node knows no such library",
        where=name,
        hint="ldconfig -p lists those there are; or give the path",
    )


def _cached(root: Path) -> Iterator[tuple[str, Path]]:
    """What the cache of the dynamic linker has."""
    command = ["/sbin/ldconfig", "-C", str(root / _CACHE), "-p"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    for match in _LINE.finditer(listing.stdout):
        yield match["name"], Path(match["path"])


def _in_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """What is in the folders that linkers look into by themselves."""
    for folder in _FOLDERS:
        for path in sorted(root.glob(f"{folder}/lib*.so*")):
            yield path.name, Path("/") / path.relative_to(root)

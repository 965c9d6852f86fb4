"""Shared libraries by the name the dynamic linker knows them by."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from kubebee.errors import KubebeeError

_LINE = re.compile(r"^\s*(?P<name>\S+) \((?P<kind>[^)]*)\) => (?P<path>\S+)$", re.MULTILINE)


class LibraryError(KubebeeError):
    """The dynamic linker knows no such library."""

    reason = "LibraryNotFound"


def find_library(name: str) -> Path:
    """Path of a library: "libc.so.6", "libc.so" or "libc" all name the first that matches.

    Raises:
        LibraryError: there is none.
    """
    command = ["/sbin/ldconfig", "-p"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    for match in _LINE.finditer(listing.stdout):
        known = match["name"]
        if known == name or known.startswith((f"{name}.", f"{name}-")):
            return Path(match["path"]).resolve()
    raise LibraryError(
        "the dynamic linker of this node knows no such library",
        where=name,
        hint="ldconfig -p lists those there are; or give the path",
    )

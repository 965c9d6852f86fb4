"""The node's own files, by the paths that users know; a pod has some of them below a folder of mounts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kubebee.bpf.libraries import LibraryError, find_library
from kubebee.errors import KubebeeError

_MOST_SYMLINKS = 40  # as of the kernel's path walk


class HostFileError(KubebeeError):
    """The node has no such file, or this process does not see it."""

    reason = "FileNotFound"


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Finds files of the node.

    Attributes:
        root: folder that the node's files are below; `/` where this process sees the node as it is.
    """

    root: Path = Path("/")

    def find(self, path: str) -> Path:
        """Where a file of the node is for this process, whether it is there or not.

        Symbolic links lead on from the node's root: followed by the kernel they would end in this process's
        own files, which in a pod are those of the image.
        """
        return Path(path) if self.root == Path("/") else self._walk(PurePosixPath(path))

    def file(self, path: str) -> Path:
        """As `find`.

        Raises:
            HostFileError: it is not there, or no regular file.
        """
        found = self.find(path)
        if not found.is_file():
            raise HostFileError("there is no such file", where=path, hint=self.hint)
        return found

    def library(self, name: str) -> str:
        """Path on the node of a shared library, by the name that the dynamic linker knows.

        Raises:
            LibraryError: there is none.
        """
        try:
            return str(find_library(name, self.root))
        except LibraryError as error:
            if self.root != Path("/"):
                error.hint = self.hint
            raise

    def _walk(self, path: PurePosixPath) -> Path:
        place, rest, symlinks = self.root, deque(path.parts), 0
        while rest:
            part = rest.popleft()
            if part == "/":
                place = self.root
            elif part == "..":
                place = place if place == self.root else place.parent
            elif (place / part).is_symlink() and symlinks < _MOST_SYMLINKS:
                symlinks += 1
                rest.extendleft(reversed((place / part).readlink().parts))
            else:
                place /= part
        return place

    @property
    def hint(self) -> str:
        """What to do about a file that is not found."""
        if self.root == Path("/"):
            return "correct the path"
        try:
            seen = ", ".join(sorted(f"/{each.name}" for each in self.root.iterdir()))
        except OSError:
            seen = ""
        return f"the chart's loader.hostPaths says what a loader sees of its node: {seen or 'nothing'}"

"""What maps, programs and links have in common: a descriptor that keeps an object of the kernel alive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Self

from kubebee.bpf.constants import Cmd
from kubebee.bpf.syscall import fd_by_id, obj_get, obj_pin


class Handle:
    """An open object of the kernel. Owns its file descriptor; use as a context manager or call close()."""

    open_by_id: ClassVar[Cmd]

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def from_pin(cls, path: str | Path) -> Self:
        """Open what is pinned at a path."""
        return cls(obj_get(str(path)))

    @classmethod
    def from_id(cls, object_id: int) -> Self:
        """Open an object by its id."""
        return cls(fd_by_id(cls.open_by_id, object_id))

    @property
    def fd(self) -> int:
        """The file descriptor."""
        return self._fd

    def pin(self, path: str | Path) -> None:
        """Pin into a bpffs: the object outlives the process."""
        obj_pin(self._fd, str(path))

    def close(self) -> None:
        """Close the descriptor; the object lives on while anything else holds it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self._fd}>"

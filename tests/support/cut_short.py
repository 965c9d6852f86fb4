"""A loader that is killed between two writes to maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kubebee.bpf.map import Map

_WRITES = ("update", "update_batch", "delete", "delete_batch")


class _KilledError(Exception):
    pass


def cut_short(writes: int, work: Callable[[], object]) -> bool:
    """Do something up to so many writes to maps; False if it needed no more than those."""
    left = writes

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def write(*args: object) -> object:
            nonlocal left
            if left == 0:
                raise _KilledError
            left -= 1
            return original(*args)

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in _WRITES:
            patch.setattr(Map, name, counted(getattr(Map, name)))
        try:
            work()
        except _KilledError:
            return True
    return False

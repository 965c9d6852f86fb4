"""Parts of a file by their text: what did not change since the last reading is not parsed again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import islice

_DIGEST_BYTES = 16  # of the text and not the text itself, which is 5 MB for 10,000 frontends
SHORT = 64
"""Bytes below which parsing costs no more than looking up."""

_Known = tuple[object, tuple[bytes, ...]]
"""A value, and the digests of the parts within it."""


class Remembered:
    """Values by text, over two readings of a file; what the second does not ask for is forgotten.

    Equal texts give the same object, so that others can tell by identity what changed. Nobody may change one.
    """

    def __init__(self, before: Remembered | None = None) -> None:
        self._before = before._values if before else {}
        self._values: dict[bytes, _Known] = {}

    def value(self, text: bytes, parse: Callable[[], object]) -> object:
        """What `text` stands for; `parse` is asked if that is not known, and may ask for parts of it."""
        if len(text) < SHORT:
            return parse()
        digest = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()
        known = self._values.get(digest)
        if known is None and (known := self._before.get(digest)) is not None:
            self._values[digest] = known
            for part in known[1]:
                self._values.setdefault(part, self._before[part])
        if known is None:
            count = len(self._values)
            value = parse()
            parts = tuple(islice(self._values, count, None)) if len(self._values) > count else ()
            known = self._values[digest] = (value, parts)
        return known[0]

    def end(self) -> Remembered:
        """End this reading: only what it asked for is kept."""
        self._before = {}
        return self

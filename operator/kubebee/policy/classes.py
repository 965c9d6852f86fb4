"""Classes of a packet property: one number for all values that the same rules accept."""

from __future__ import annotations

from kubebee.policy.layout import CLASSES, pack_bits
from kubebee.policy.model import PolicyError


class Classes:
    """Numbers sets of rules in the order in which they first appear."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._numbers: dict[int, int] = {}

    def number(self, bits: int) -> int:
        """Return the class of a set of rules (bit i = rule i).

        Raises:
            PolicyError: if the map has no room for another class.
        """
        known = self._numbers.get(bits)
        if known is not None:
            return known
        if len(self._numbers) == CLASSES:
            raise PolicyError(
                f"the rules tell apart more than {CLASSES} {self._what}",
                reason="PolicyTooLarge",
                hint="merge neighbouring prefixes or ports, or use fewer rules",
            )
        return self._numbers.setdefault(bits, len(self._numbers))

    def pack(self) -> bytes:
        """Return one struct kb_rule_bits per class."""
        return b"".join(pack_bits(bits) for bits in self._numbers)

"""Whether a server is up: a state that only so many results in a row change."""

from __future__ import annotations

from typing import NamedTuple, Self

from kubebee.lb.health.check import Check


class Health(NamedTuple):
    """What is known of a server.

    Attributes:
        up: what its results came to.
        streak: how many of the last results, in a row, say otherwise.
        why: of the last failure in a row, "" after a success.
    """

    up: bool
    streak: int = 0
    why: str = ""

    @classmethod
    def doubted(cls, check: Check, *, up: bool) -> Self:
        """Nothing was tried yet: the first result that says otherwise decides."""
        return cls(up, (check.failures if up else check.successes) - 1)

    def after(self, failure: str, check: Check) -> Health:
        """The state after one more result.

        Args:
            failure: why it failed; "" = it passed.
            check: has the thresholds.
        """
        passed = not failure
        if passed is self.up:
            return Health(self.up, 0, failure)
        streak = self.streak + 1
        if streak >= (check.failures if self.up else check.successes):
            return Health(passed, 0, failure)
        return Health(self.up, streak, failure or self.why)

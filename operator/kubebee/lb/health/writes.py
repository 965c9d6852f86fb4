"""Whether changes get into the maps."""

from __future__ import annotations

PATIENCE_SECONDS = 10.0
"""A failure is tried again before the node is said to be unwell: balancers in front of it would leave it."""


class Writes:
    """How the writes went. Times are seconds since 1970.

    Attributes:
        last: when one last succeeded, 0 if never.
    """

    def __init__(self) -> None:
        self.last = 0.0
        self._failing_since: float | None = None
        self._why = ""

    def succeeded(self, now: float) -> None:
        """All is written."""
        self.last, self._failing_since = now, None

    def failed(self, why: str, now: float) -> None:
        """Something was not."""
        self._why = why
        if self._failing_since is None:
            self._failing_since = now

    def trouble(self, now: float) -> str:
        """Why changes have stayed away from the maps for too long; "" if they have not."""
        since = self._failing_since
        if since is None or (self.last and now - since < PATIENCE_SECONDS):
            return ""
        return f"changes can't be written: {self._why}"

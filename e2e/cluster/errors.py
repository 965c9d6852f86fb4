"""The one error of this package."""

from __future__ import annotations


class ClusterError(Exception):
    """What keeps the cluster from doing what was asked.

    Args:
        message: what went wrong and why.
        hint: what to do next.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)

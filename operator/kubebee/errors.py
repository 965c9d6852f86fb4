"""The one shape of an error: what happened, where, why, and what to do next."""

from __future__ import annotations


class KubebeeError(Exception):
    """Base of every error that a user may see.

    Args:
        message: what went wrong and why, one sentence.
        reason: CamelCase word for status conditions, metrics and exit codes.
        where: the place: a file and line, a field path, an interface, a pin.
        hint: what to do next.

    Attributes:
        may_pass: waiting may help; else only an edit does.
    """

    reason = "Error"
    may_pass = False

    def __init__(self, message: str, *, reason: str = "", where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class UnsupportedError(KubebeeError):
    """This kernel or machine lacks what was asked for; the message names what is missing."""

    reason = "Unsupported"


class NotImplementedYetError(KubebeeError):
    """The API has the field, this version does not act on it; refused, never accepted silently."""

    reason = "NotImplemented"

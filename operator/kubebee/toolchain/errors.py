"""Errors of the toolchains: what the compiler said, and which limit stopped it."""

from __future__ import annotations

from kubebee.errors import KubebeeError
from kubebee.toolchain.diagnostics import Diagnostic


class SandboxError(KubebeeError):
    """The command did not finish within its limits, or the sandbox could not be made.

    Reasons: CompileTimeout, CompileMemory, CompileOutputTooLarge, CompilerCrashed, SandboxUnavailable.

    Attributes:
        may_pass: the same source may compile later: it was the machine that had no time for it.
    """

    reason = "SandboxUnavailable"

    def __init__(
        self, message: str, *, reason: str = "", where: str = "", hint: str = "", may_pass: bool = False
    ) -> None:
        super().__init__(message, reason=reason, where=where, hint=hint)
        self.may_pass = may_pass


class CompileError(KubebeeError):
    """A source did not become an object.

    Attributes:
        log: what the compiler wrote, bounded, with the user's own file names and lines.
        diagnostics: the same, parsed; empty when a limit stopped the compiler.
        may_pass: see SandboxError.
    """

    reason = "CompileFailed"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        where: str = "",
        hint: str = "",
        log: str = "",
        diagnostics: tuple[Diagnostic, ...] = (),
        may_pass: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, where=where, hint=hint)
        self.log = log
        self.diagnostics = diagnostics
        self.may_pass = may_pass

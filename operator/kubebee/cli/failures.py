"""Errors on the terminal: what, where, why and what to do, never a traceback unless asked for."""

from __future__ import annotations

import errno
import sys
import traceback

import click

from kubebee.cli.exit_codes import Exit
from kubebee.errors import KubebeeError, UnsupportedError

LOG_LINES = 40
_ENVIRONMENT_REASONS = frozenset({"BpffsMissing", "NoCgroup2", "SandboxUnavailable", "NoLibbpf"})
_NOT_PERMITTED = frozenset({errno.EPERM, errno.EACCES})


def describe(error: KubebeeError) -> str:
    """Lines for people: the message, then where, why, what to do, and the end of a compiler's log."""
    why = " ".join(part for part in (error.reason, _errno_name(error)) if part)
    parts = (("where", error.where), ("why", why), ("do", error.hint))
    lines = [f"error: {error.message}"]
    lines += [f"  {f'{name}:':<7}{text}" for name, text in parts if text]
    log = str(getattr(error, "log", "")).strip()
    if log:
        lines += [f"  | {line}" for line in log.splitlines()[-LOG_LINES:]]
    return "\n".join(lines)


def exit_code(error: KubebeeError) -> Exit:
    """Whether the fault is in what was asked for, or in what this machine lacks."""
    if error.reason in _ENVIRONMENT_REASONS or isinstance(error, UnsupportedError):
        return Exit.ENVIRONMENT
    # Verifiers, too, say EACCES; then there is a log.
    if getattr(error, "errno", 0) in _NOT_PERMITTED and not getattr(error, "log", ""):
        return Exit.ENVIRONMENT
    return Exit.ERROR


def report(error: Exception, *, verbose: bool) -> Exit:
    """Say what went wrong on standard error; returns the exit status."""
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KubebeeError):
        click.echo(describe(error), err=True)
        return exit_code(error)
    more = "" if verbose else "; run again with -v for where it happened"
    click.echo(
        f"error: {type(error).__name__}: {error}: a fault of kubebee, please report it{more}", err=True
    )
    return Exit.ERROR


def _errno_name(error: KubebeeError) -> str:
    name = str(getattr(error, "errno_name", ""))
    return f"[{name}]" if name and name != error.reason else ""

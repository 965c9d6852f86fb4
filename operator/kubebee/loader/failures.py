"""From an exception to what a status says: the stage, the reason, and whether waiting can help."""

from __future__ import annotations

import errno
import re
from pathlib import PurePath

from kubebee.bpf.object import LoadError
from kubebee.bpf.syscall import BpfError, errno_name
from kubebee.errors import KubebeeError, NotImplementedYetError, UnsupportedError
from kubebee.loader.unit import Unit
from kubebee.planner.plan import Bundle
from kubebee.planner.report import Failure, Stage
from kubebee.toolchain.errors import CompileError

LOG_TAIL = 2048
_MAY_PASS = frozenset(
    {
        errno.EBUSY,
        errno.EAGAIN,
        errno.ENOMEM,
        errno.ENODEV,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.ENOENT,
    }
)
_TRANSIENT_REASONS = frozenset(
    {
        "ForeignProgram",
        "ForeignQdisc",
        "LinkLost",
        "NotConfirmed",
        "BpffsMissing",
        "InstanceInUse",
        "NoSnatAddress",
        "NotLinkable",
        "ModeConflict",
    }
)
_VERIFIED_LINE = re.compile(r"(?<=@ )(?P<file>\S+):(?P<line>\d+)")  # as in "; return *p; @ drop.c:12"


def describe(error: BaseException, stage: Stage, unit: Unit | None = None, function: str = "") -> Failure:
    """What to report for `error`, which happened in or before `stage`.

    Args:
        error: what was raised.
        stage: where.
        unit: whose code it is about; leads the verifier's lines back to the user's source.
        function: to blame where a whole chain is refused; else the program that the error names.
    """
    if isinstance(error, OSError) and error.errno:
        name = errno_name(error.errno)
        where = f"{error.filename}: " if error.filename else ""
        return Failure(stage, name, f"{where}{error.strerror} [{name}]", name, permanent=False)
    if not isinstance(error, KubebeeError):
        return Failure(
            stage,
            "InternalError",
            f"{type(error).__name__}: {error}",
            hint="this is a fault of kubebee: please report it",
            permanent=False,
        )
    name, log, permanent = "", "", True
    reason = error.reason
    text = f"{error.where}: {error.message}" if error.where else error.message
    if isinstance(error, CompileError):
        stage, log, permanent = Stage.COMPILE, error.log, not error.may_pass
    elif isinstance(error, LoadError) and stage is not Stage.ATTACH:
        stage, log, name = Stage.VERIFY, error.log, error.errno_name
        permanent = error.errno not in _MAY_PASS
        reason = "VerifierRefused" if error.program else error.reason
        bundle = _bundle_of(unit, function or error.program)
        if error.program and bundle is not None:
            log, place = _in_users_lines(log, bundle)
            said = error.message.removeprefix(f"program {error.program} is refused by the verifier: ")
            text = f"{place}: the verifier refuses function {function or error.program}: {said}"
    elif isinstance(error, BpfError):
        name = error.errno_name
        permanent = error.errno not in _MAY_PASS
    elif not isinstance(error, (UnsupportedError, NotImplementedYetError)):
        log = getattr(error, "log", "")
    if error.reason in _TRANSIENT_REASONS:
        permanent = False
    return Failure(stage, reason, text, name, log[-LOG_TAIL:], error.hint, permanent)


def _bundle_of(unit: Unit | None, function: str) -> Bundle | None:
    """The source that a function is in."""
    for code in unit.objects if unit else ():
        if any(plan.name == function for plan in code.functions):
            return code.bundle
    return None


def _in_users_lines(log: str, bundle: Bundle) -> tuple[str, str]:
    """A verifier's log in the lines of the user's own file, and the last place in that file that it names."""
    place = bundle.filename

    def origin(match: re.Match[str]) -> str:
        nonlocal place
        if match["file"] != PurePath(bundle.filename).name:
            return match[0]
        place, line = f"{bundle.filename}:{match['line']}", int(match["line"])
        if 1 <= line <= len(bundle.line_map):
            place = f"{bundle.line_map[line - 1].file}:{bundle.line_map[line - 1].line}"
        return place

    return _VERIFIED_LINE.sub(origin, log), place

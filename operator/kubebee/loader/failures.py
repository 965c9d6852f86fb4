"""From an exception to what a status says: the stage, the reason, and whether waiting can help."""

from __future__ import annotations

import errno

from kubebee.bpf.object import LoadError
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError, NotImplementedYetError, UnsupportedError
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
    {"ForeignProgram", "CompileTimeout", "LinkLost", "NotConfirmed", "BpffsMissing", "NoSnatAddress"}
)


def describe(error: BaseException, stage: Stage) -> Failure:
    """What to report for `error`, which happened in or before `stage`."""
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
    if isinstance(error, CompileError):
        stage, log = Stage.COMPILE, error.log
    elif isinstance(error, LoadError) and stage is not Stage.ATTACH:
        stage, log, name = Stage.VERIFY, error.log, error.errno_name
        permanent = error.errno not in _MAY_PASS
        reason = "VerifierRefused" if error.program else error.reason
    elif isinstance(error, BpfError):
        name = error.errno_name
        permanent = error.errno not in _MAY_PASS
    elif not isinstance(error, (UnsupportedError, NotImplementedYetError)):
        log = getattr(error, "log", "")
    if error.reason in _TRANSIENT_REASONS:
        permanent = False
    text = f"{error.where}: {error.message}" if error.where else error.message
    return Failure(stage, reason, text, name, log[-LOG_TAIL:], error.hint, permanent)

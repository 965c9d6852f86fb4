"""Run a compiler over hostile input: no network, few files, bounded time, memory and output.

It reads /usr and the files and directories given, and nothing else: no /etc, /proc, /dev or /home. How it is
kept to that depends on what this process may do, see `isolation`. Inputs travel as memory files, or with
Landlock in a folder that goes with the command; the result comes back on stdout. Measured overhead over the
bare command: 7 ms with bubblewrap, 25 ms with Landlock, most of it the start of Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubebee.toolchain import confine, isolation
from kubebee.toolchain.errors import SandboxError
from kubebee.toolchain.job import Job, Limits

__all__ = ["Job", "Limits", "Outcome", "run"]

_STDERR_BYTES = 256 << 10
_FOLDER = "kubebee-compile-"
_LEFT_SECONDS = 600.0
"""Longer than any job may take: no folder of this age is in use."""
_OUT_OF_MEMORY = (b"out of memory", b"Cannot allocate memory", b"std::bad_alloc", b"failed to map segment")


@dataclass(frozen=True)
class Outcome:
    """How a command that stayed within its limits ended; stderr is cut at 256 KiB."""

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float


async def run(job: Job) -> Outcome:
    """Run `job`; whatever happens, none of its processes is left.

    Raises:
        UnsupportedError: bubblewrap or util-linux is not installed.
        SandboxError: a limit was hit or the sandbox could not be made; the message has the limit.
    """
    with contextlib.ExitStack() as stack:
        prepared = _prepare(job, stack)
        start = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *prepared.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=prepared.descriptors,
            start_new_session=True,
            env={},
            cwd=prepared.cwd,
        )
        async with _killed_on_exit(process):
            stdout, stderr = await _collect(process, job)
        for actual, inside in prepared.renamed.items():
            stderr = stderr.replace(actual.encode(), inside.encode())
        outcome = Outcome(process.returncode or 0, stdout, stderr, time.monotonic() - start)
    _refuse_broken_limits(outcome, job)
    return outcome


@dataclass(frozen=True)
class _Prepared:
    """A command ready to start; `renamed`: paths that stand in its messages -> those inside the sandbox."""

    command: list[str]
    descriptors: tuple[int, ...] = ()
    cwd: Path = Path("/")
    renamed: Mapping[str, str] = field(default_factory=dict)


def _prepare(job: Job, stack: contextlib.ExitStack) -> _Prepared:
    """The command line, with the job's files where it finds them; they go with `stack`."""
    kind = isolation.choose()
    if kind is not isolation.Isolation.LANDLOCK:
        files = {path: _memory_file(content, stack) for path, content in job.files.items()}
        return _Prepared(isolation.bubblewrap(kind, job, files), tuple(files.values()))
    _forget_leftovers(Path(tempfile.gettempdir()))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_FOLDER)))
    cwd = folder.joinpath(job.cwd.lstrip("/"))
    cwd.mkdir(exist_ok=True)
    for path, content in job.files.items():
        file = folder.joinpath(path.lstrip("/"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    command, renamed = isolation.landlock(job)
    return _Prepared(command, cwd=cwd, renamed=renamed)


@functools.cache
def _forget_leftovers(directory: Path) -> None:
    """Remove what processes left that were killed; once, as a process that lives leaves nothing."""
    for folder in directory.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.lstat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(folder)


async def _collect(process: asyncio.subprocess.Process, job: Job) -> tuple[bytes, bytes]:
    """Both streams until the process has ended, within the wall deadline and the output limit."""
    assert process.stdout is not None
    assert process.stderr is not None
    limits = job.limits
    try:
        async with asyncio.timeout(limits.wall_seconds):
            stdout, stderr, _ = await asyncio.gather(
                _read(process.stdout, limits.output_bytes, at_limit=lambda: _kill(process)),
                _read(process.stderr, _STDERR_BYTES),
                process.wait(),
            )
    except TimeoutError:
        raise _timeout(job, f"{limits.wall_seconds:g} s", may_pass=True) from None
    if len(stdout) > limits.output_bytes:
        raise SandboxError(
            f"{_name(job)} made more than {limits.output_bytes >> 20} MiB of output",
            reason="CompileOutputTooLarge",
            hint="make large constant arrays smaller, or keep such data in a map",
        )
    return stdout, stderr


async def _read(
    stream: asyncio.StreamReader, limit: int, *, at_limit: Callable[[], None] = lambda: None
) -> bytes:
    """Up to limit + 1 bytes of the stream. Reads to its end in any case: asyncio's wait() needs that."""
    kept = bytearray()
    while chunk := await stream.read(1 << 18):
        if len(kept) <= limit:
            kept += chunk[: limit + 1 - len(kept)]
            if len(kept) > limit:
                at_limit()
    return bytes(kept)


def _kill(process: asyncio.subprocess.Process) -> None:
    """End the whole process group; the pid namespace dies with its first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def _killed_on_exit(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Leave no process behind, also after an error or cancellation."""
    try:
        yield
    finally:
        if process.returncode is None:
            _kill(process)
            await process.communicate()


def _memory_file(content: bytes, stack: contextlib.ExitStack) -> int:
    """A descriptor to read `content` from, closed with `stack`."""
    fd = os.memfd_create("kubebee-input")
    stack.callback(os.close, fd)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _name(job: Job) -> str:
    return Path(job.argv[0]).name


def _timeout(job: Job, limit: str, *, may_pass: bool = False) -> SandboxError:
    return SandboxError(
        f"{_name(job)} was stopped at its limit of {limit}",
        reason="CompileTimeout",
        hint="look for macros that expand into each other or very large generated code",
        may_pass=may_pass,
    )


def _refuse_broken_limits(outcome: Outcome, job: Job) -> None:
    """Turn the ways in which a kernel or bubblewrap ends a command into our errors."""
    code = outcome.returncode
    ended_by = code - 128 if code > 128 else -code
    memory = f"its limit of {job.limits.memory_bytes >> 20} MiB of memory"
    if outcome.stderr.startswith((b"bwrap: ", confine.PREFIX.encode())):
        raise SandboxError(
            outcome.stderr.decode(errors="replace").splitlines()[0],
            hint="run a kernel with Landlock (5.13, and `landlock` in lsm=), or allow user namespaces "
            "(user.max_user_namespaces > 0), or give CAP_SYS_ADMIN, SETUID, SETGID and KILL",
        )
    if code == 0:
        return
    if ended_by == signal.SIGKILL and outcome.seconds >= job.limits.cpu_seconds:
        raise _timeout(job, f"{job.limits.cpu_seconds} s of CPU time")
    if ended_by == signal.SIGKILL or any(sign in outcome.stderr for sign in _OUT_OF_MEMORY):
        raise SandboxError(
            f"{_name(job)} was stopped at {memory}",
            reason="CompileMemory",
            hint="look for macros that expand into each other or very large constant arrays",
        )
    if b"Stack dump:" in outcome.stderr or ended_by in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        raise SandboxError(
            f"{_name(job)} crashed",
            reason="CompilerCrashed",
            hint="simplify the source, most often deeply nested expressions, or try another clang",
        )

"""Run one command over hostile input: no network, few files, bounded time, memory and output.

The command sees /usr and the files and directories given, all read-only, and nothing else: no /etc, /proc,
/dev or /home. It runs in its own pid, mount, network, ipc and uts namespaces (bubblewrap) under a uid that
nothing else uses. Inputs travel as memory files, the result comes back on stdout: nothing is left behind.
Measured overhead over the bare command: 7 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kubebee.errors import UnsupportedError
from kubebee.toolchain.errors import SandboxError

# systemd's table of uid ranges marks 60578..61183 as unused: no account, no container, no DynamicUser.
_UID = 60977
_STDERR_BYTES = 256 << 10
_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 5, 6, 7, 21
_OUT_OF_MEMORY = (b"out of memory", b"Cannot allocate memory", b"std::bad_alloc", b"failed to map segment")


@dataclass(frozen=True)
class Limits:
    """What one command may use; seconds and bytes. Memory is address space, per process."""

    wall_seconds: float = 20.0
    cpu_seconds: int = 15
    memory_bytes: int = 1 << 30
    output_bytes: int = 16 << 20
    processes: int = 64
    open_files: int = 256


@dataclass(frozen=True)
class Job:
    """A command and all that it may see.

    Attributes:
        argv: command and arguments; run without a shell.
        files: absolute path inside the sandbox -> content.
        directories: absolute path inside the sandbox -> host directory, read-only.
        cwd: working directory inside the sandbox.
    """

    argv: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    directories: Mapping[str, Path] = field(default_factory=dict)
    cwd: str = "/"
    limits: Limits = field(default_factory=Limits)


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
        memory_files: dict[str, int] = {}
        for path, content in job.files.items():
            memory_files[path] = _memory_file(content)
            stack.callback(os.close, memory_files[path])
        command = _wrap(job, memory_files)
        start = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=tuple(memory_files.values()),
            start_new_session=True,
            env={},
            cwd="/",
        )
        async with _killed_on_exit(process):
            stdout, stderr = await _collect(process, job)
        outcome = Outcome(process.returncode or 0, stdout, stderr, time.monotonic() - start)
    _refuse_broken_limits(outcome, job)
    return outcome


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


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("kubebee-input")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _tool(name: str, package: str) -> str:
    path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        raise UnsupportedError(
            f"{name} is not installed, so sources cannot be compiled in a sandbox",
            hint=f"apt-get install {package}",
        )
    return path


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.split("CapEff:")[1].split()[0], 16)


def _can_change_user() -> bool:
    """Whether we may bind-mount and switch to the private uid; otherwise a user namespace must do."""
    needed = (_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN)
    capabilities = _effective_capabilities()
    return all(capabilities >> capability & 1 for capability in needed)


def _wrap(job: Job, memory_files: Mapping[str, int]) -> list[str]:
    """The command line: bubblewrap, then (as root) the private uid, then limits, then the command."""
    limits = job.limits
    argv = [_tool("bwrap", "bubblewrap"), "--die-with-parent", "--clearenv", "--setenv", "PATH", "/usr/bin"]
    argv += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64"):
        host = Path("/", name)
        if host.is_symlink():
            argv += ["--symlink", str(host.readlink()), f"/{name}"]
        elif host.is_dir():
            argv += ["--ro-bind", f"/{name}", f"/{name}"]
    for inside, directory in job.directories.items():
        argv += ["--ro-bind", str(directory), inside]
    for inside, fd in memory_files.items():
        argv += ["--perms", "0444", "--file", str(fd), inside]
    argv += ["--remount-ro", "/", "--chdir", job.cwd]
    if _can_change_user():
        # The capabilities end with the change of uid; no_new_privs keeps them from coming back.
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--"]
        argv += [_tool("setpriv", "util-linux"), f"--reuid={_UID}", f"--regid={_UID}"]
        argv += ["--clear-groups", "--no-new-privs"]
    else:
        argv += ["--unshare-user", f"--uid={_UID}", f"--gid={_UID}", "--"]
    argv += [_tool("prlimit", "util-linux"), f"--as={limits.memory_bytes}", f"--fsize={limits.output_bytes}"]
    # Soft equals hard: SIGKILL. clang catches SIGXCPU, reports a crash of its own and exits with 1.
    argv += [f"--cpu={limits.cpu_seconds}", "--core=0"]
    argv += [f"--nproc={limits.processes}", f"--nofile={limits.open_files}", "--"]
    return [*argv, *job.argv]


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
    if outcome.stderr.startswith(b"bwrap: "):
        raise SandboxError(
            outcome.stderr.decode(errors="replace").splitlines()[0],
            hint="allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "user.max_user_namespaces > 0), or run with CAP_SYS_ADMIN",
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

"""How a compiler is kept apart from the machine: by what this process may do, and by which command line.

From the strongest: bubblewrap and a uid that nothing else uses; bubblewrap with a user namespace; Landlock
and seccomp, all that is left to a pod with BPF, PERFMON and NET_ADMIN.
"""

from __future__ import annotations

import enum
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kubebee.errors import UnsupportedError
from kubebee.toolchain import confine
from kubebee.toolchain.job import Job, Limits

# systemd's table of uid ranges marks 60578..61183 as unused: no account, no container, no DynamicUser.
_UID = 60977
_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 5, 6, 7, 21
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64")
_HERE = "/proc/self/cwd"
_OWN_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")


class Isolation(enum.Enum):
    """What keeps the compiler apart."""

    OWN_USER = "bubblewrap and a uid of its own"
    USER_NAMESPACE = "bubblewrap and a user namespace"
    LANDLOCK = "Landlock and seccomp"


@functools.cache
def choose() -> Isolation:
    """The strongest that works here; if none does, the one whose error says most."""
    if _can_change_user():
        return Isolation.OWN_USER
    if _user_namespace_works() or not confine.available():
        return Isolation.USER_NAMESPACE
    return Isolation.LANDLOCK


def bubblewrap(isolation: Isolation, job: Job, memory_files: Mapping[str, int]) -> list[str]:
    """The whole command line of OWN_USER or USER_NAMESPACE.

    Args:
        isolation: which of them.
        job: the command and what it sees.
        memory_files: path inside the sandbox -> descriptor with the content.

    Raises:
        UnsupportedError: bubblewrap or util-linux is not installed.
    """
    argv = [_tool("bwrap", "bubblewrap"), "--die-with-parent", "--clearenv", "--setenv", "PATH", "/usr/bin"]
    argv += [*_OWN_NAMESPACES, *_system_mounts()]
    for inside, directory in job.directories.items():
        argv += ["--ro-bind", str(directory), inside]
    for inside, fd in memory_files.items():
        argv += ["--perms", "0444", "--file", str(fd), inside]
    argv += ["--remount-ro", "/", "--chdir", job.cwd]
    if isolation is Isolation.OWN_USER:
        # The capabilities end with the change of uid; no_new_privs keeps them from coming back.
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--"]
        argv += [_tool("setpriv", "util-linux"), f"--reuid={_UID}", f"--regid={_UID}"]
        argv += ["--clear-groups", "--no-new-privs"]
    else:
        argv += [*_user_namespace(), "--"]
    return [*argv, *_limited(job.limits), *job.argv]


def landlock(job: Job) -> tuple[list[str], dict[str, str]]:
    """The whole command line of LANDLOCK, and the paths in it that stand for paths inside: actual -> inside.

    There is no mount namespace, so paths inside become others: directories those of the host, files such that
    begin at the working directory, which makes the object the same wherever that is. It is to run in the
    folder for `job.cwd` next to those of other files.

    Args:
        job: the command and what it sees; the command must be clang.
    """
    inside = sorted({"/" + path.split("/")[1] for path in job.files} - set(job.directories))
    shown = {root: f"{_HERE}/..{root}" if root != job.cwd else _HERE for root in inside}
    shown |= {root: str(directory) for root, directory in job.directories.items()}
    roots = re.compile(rf"(?P<before>-I|)(?P<root>{'|'.join(map(re.escape, shown))})(?P<rest>/.*|)")

    def outside(word: str) -> str:
        found = roots.fullmatch(word)
        return f"{found['before']}{shown[found['root']]}{found['rest']}" if found else word

    clang, *arguments = job.argv
    limits = job.limits
    system = [f"/{name}" for name in _SYSTEM if Path("/", name).is_dir()]
    readable = [*system, ".." if job.cwd != "/" else ".", *map(str, job.directories.values())]
    bounds = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_FSIZE": limits.output_bytes,
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": limits.open_files,
    }
    launcher = [sys.executable, "-I", "-S", confine.__file__]
    launcher += [word for path in readable for word in ("--read", path)]
    launcher += [word for name, number in bounds.items() for word in ("--limit", f"{name}={number}")]
    # LLVM reads the source by this path once more, for the lines that a verifier's log shows.
    command = [*launcher, "--", clang, f"-fdebug-compilation-dir={_HERE}", *map(outside, arguments)]
    longest_first = sorted(shown.items(), key=lambda item: len(item[1]), reverse=True)
    return command, {actual: root for root, actual in longest_first}


def _tool(name: str, package: str) -> str:
    path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        raise UnsupportedError(
            f"{name} is not installed, so sources cannot be compiled in a sandbox",
            hint=f"apt-get install {package}",
        )
    return path


def _system_mounts() -> list[str]:
    """The parts of the system that a compiler needs, as bubblewrap's options."""
    argv: list[str] = []
    for name in _SYSTEM:
        host = Path("/", name)
        if host.is_symlink():
            argv += ["--symlink", str(host.readlink()), f"/{name}"]
        elif host.is_dir():
            argv += ["--ro-bind", f"/{name}", f"/{name}"]
    return argv


def _limited(limits: Limits) -> Sequence[str]:
    # Soft equals hard: SIGKILL. clang catches SIGXCPU, reports a crash of its own and exits with 1.
    return (
        _tool("prlimit", "util-linux"),
        f"--as={limits.memory_bytes}",
        f"--fsize={limits.output_bytes}",
        f"--cpu={limits.cpu_seconds}",
        "--core=0",
        f"--nproc={limits.processes}",
        f"--nofile={limits.open_files}",
        "--",
    )


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.split("CapEff:")[1].split()[0], 16)


def may_mount() -> bool:
    """Whether this process may make mount and network namespaces of its own."""
    return bool(_effective_capabilities() >> _CAP_SYS_ADMIN & 1)


def _can_change_user() -> bool:
    """Whether we may bind-mount and switch to the private uid."""
    capabilities = _effective_capabilities()
    change = all(capabilities >> capability & 1 for capability in (_CAP_KILL, _CAP_SETGID, _CAP_SETUID))
    return change and may_mount()


def _user_namespace() -> list[str]:
    return ["--unshare-user", "--uid", str(_UID), "--gid", str(_UID)]


def _user_namespace_works() -> bool:
    """Tried, as much forbids it: sysctls, AppArmor, seccomp, being uid 0 without CAP_SETFCAP (Linux 5.12)."""
    bwrap = shutil.which("bwrap", path="/usr/bin:/bin")
    if bwrap is None:
        return False
    attempt = [bwrap, *_OWN_NAMESPACES, *_system_mounts(), *_user_namespace(), "--", "/usr/bin/true"]
    return subprocess.run(attempt, capture_output=True, check=False, timeout=10).returncode == 0

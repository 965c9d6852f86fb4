"""Run under `python -I -S`: take away all that a compiler does not need, then become it.

For pods: without CAP_SETUID there is no other uid to change to, and without CAP_SETFCAP no user namespace for
uid 0. What an unprivileged process may still do to itself is enough: no capabilities and no way back to
them, Landlock for files (Linux 5.13), a seccomp list of the system calls that clang makes. There is no call
in it that starts a process, opens a socket, sends a signal or changes another process or a file's mode.

Landlock does not hide that a file exists, how large it is and when it was written.

Imports nothing of kubebee and little else: its start is most of what it costs.
Usage: confine.py [--read PATH]... [--limit RLIMIT_x=NUMBER]... -- COMMAND [ARGUMENT...]
"""

import ctypes
import os
import resource
import struct
import sys
from typing import NoReturn

FAILED = 126
"""Exit code when it could not be confined; the line on stderr begins with `PREFIX`."""
PREFIX = "confine: "

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9  # `signal` would import enum, which takes 5 ms
_CAPABILITY_VERSION_3 = 0x20080522
# include/uapi/linux/landlock.h. Rights by the ABI version that brought them; all are taken away at first.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION, _RULE_PATH_BENEATH = 1, 1
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_EXECUTE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
# include/uapi/linux/filter.h, seccomp.h and audit.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE_EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name: (x86-64, arm64); what clang 14 to 19 call, and the calls that a C library may make in their stead.
_CALLS = {
    "access": (21, None),
    "arch_prctl": (158, None),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "close": (3, 57),
    "dup": (32, 23),
    "execve": (59, 221),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "lseek": (8, 62),
    "lstat": (6, None),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "newfstatat": (262, 79),
    "open": (2, None),
    "openat": (257, 56),
    "pread64": (17, 67),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "sigaltstack": (131, 132),
    "stat": (4, None),
    "statfs": (137, 43),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "write": (1, 64),
    "writev": (20, 66),
}
_PRLIMIT = (302, 261)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def landlock_version() -> int:
    """The kernel's version of Landlock; 0 if it has none or it is switched off."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    return max(0, int(version))


def available() -> bool:
    """Whether this kernel and machine can confine at all."""
    return os.uname().machine in _ARCHITECTURES and landlock_version() > 0


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _drop_capabilities() -> None:
    """None is left, and with no_new_privs uid 0 does not get them back by exec."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, bytes(24)), "capset")


def _restrict_files(read: list[str]) -> None:
    """Reading, listing and executing below `read`; nothing else, and nothing anywhere else."""
    version = landlock_version()
    handled = sum(rights for since, rights in _RIGHTS_BY_ABI.items() if since <= version)
    attributes = struct.pack("=Q", handled)
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    _checked(ruleset, "Landlock")
    for path in read:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", _EXECUTE | _READ_FILE | _READ_DIRECTORY, folder)
        _checked(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), path)
        os.close(folder)
    _checked(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def seccomp_program(machine: str) -> bytes:
    """The filter, as classic BPF: listed calls pass, prlimit64 of the caller itself too, others get EPERM."""
    column = list(_ARCHITECTURES).index(machine)
    numbers = [number for call in _CALLS.values() if (number := call[column]) is not None]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    # A jump that hits skips the rest of the list and the four instructions before the last, which allows.
    program += [
        _instruction(_JUMP_IF_EQUAL, number, len(numbers) - place + 3, 0)
        for place, number in enumerate(numbers)
    ]
    return b"".join(
        [
            *program,
            _instruction(_JUMP_IF_EQUAL, _PRLIMIT[column], 0, 2),
            _instruction(_LOAD, _FIRST_ARGUMENT_AT),
            _instruction(_JUMP_IF_EQUAL, 0, 1, 0),
            _instruction(_RETURN, _REFUSE_EPERM),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _restrict_calls() -> None:
    program = seccomp_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("H6xP", len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0), "seccomp")


def _become(command: list[str], read: list[str], limits: dict[str, int]) -> NoReturn:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "PDEATHSIG")
    _drop_capabilities()
    _restrict_files(read)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    _restrict_calls()
    os.execve(command[0], command, {"PATH": "/usr/bin"})  # noqa: S606


def main() -> None:
    """Become the command, or say on stderr why not."""
    end = sys.argv.index("--")
    options = list(zip(sys.argv[1:end:2], sys.argv[2:end:2], strict=True))
    read = [value for option, value in options if option == "--read"]
    limits = [value.split("=") for option, value in options if option == "--limit"]
    try:
        _become(sys.argv[end + 1 :], read, {name: int(number) for name, number in limits})
    except (OSError, ValueError) as error:
        print(f"{PREFIX}{error}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()

"""Which clang there is, and how it is called for BPF."""

from __future__ import annotations

import functools
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass

from kubebee.errors import UnsupportedError

MIN_MAJOR = 14
# 19 first: what the figures and the tests are made with.
_CANDIDATES = ("clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14", "clang")
_VERSION = re.compile(r"clang version (\d+)\.")

# libbpf's bpf_tracing.h picks registers by these names, which are the kernel's.
_TARGET_ARCH = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "s390x": "s390",
    "ppc64le": "powerpc",
    "riscv64": "riscv",
}


@dataclass(frozen=True)
class Clang:
    """A compiler; `version` is its whole first line and goes into cache keys."""

    path: str
    version: str
    major: int


@functools.cache
def find_clang() -> Clang:
    """The first usable compiler on the system's path.

    Raises:
        UnsupportedError: none, or only versions before 14.
    """
    too_old = ""
    for name in _CANDIDATES:
        path = shutil.which(name, path="/usr/bin:/bin")
        if path is None:
            continue
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
        match = _VERSION.search(answer.stdout)
        if match and int(match[1]) >= MIN_MAJOR:
            return Clang(path, answer.stdout.splitlines()[0], int(match[1]))
        too_old = f"; {path} is older or no clang"
    raise UnsupportedError(
        f"no clang {MIN_MAJOR} or newer in /usr/bin{too_old}", hint="apt-get install clang-19 libbpf-dev"
    )


def flags() -> tuple[str, ...]:
    """Flags of every compile. Built from the machine, never from a user's text.

    DWARF is not kept down by a flag: -g1 crashes clang's CO-RE pass, and CO-RE needs full types.
    """
    machine = platform.machine()
    return (
        "-target",
        "bpf",
        "-mcpu=v3",
        "-O2",
        "-g",
        "-Wall",
        "-Wextra",
        f"-D__TARGET_ARCH_{_TARGET_ARCH.get(machine, machine)}",
        "-nostdlibinc",
        "-isystem",
        "/usr/include",
        "-isystem",
        f"/usr/include/{machine}-linux-gnu",
        "-fno-color-diagnostics",
        "-fno-crash-diagnostics",
        "-ferror-limit=20",
        "-fmacro-backtrace-limit=3",
    )

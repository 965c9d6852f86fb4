"""BCC dialect: compiled and loaded by the real python3-bpfcc in a worker, which hands us the fds.

The worker needs bpf(2), so it stays root, without network, in its own mount namespace, with limits. Kernel
headers of another version (KUBEBEE_KERNEL_HEADERS) are bound over /lib/modules in that namespace alone.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubebee.errors import UnsupportedError
from kubebee.toolchain import isolation
from kubebee.toolchain.compile import compile_error, refuse_large
from kubebee.toolchain.errors import CompileError

DEADLINE_SECONDS = 30.0
_PYTHON = Path("/usr/bin/python3")
_BINDING = Path("/usr/lib/python3/dist-packages/bcc")
_VIRTUAL = "/virtual/main.c"
# BCC looks in /lib/modules/RELEASE/build; a private tmpfs there shows the headers that were found.
_MOUNT = (
    'set -e; mount --make-rprivate /; mount -t tmpfs none /lib/modules; mkdir -p "/lib/modules/$1"; '
    'ln -s "$2" "/lib/modules/$1/build"; ln -s "$3" "/lib/modules/$1/source"; shift 3; exec "$@"'
)


@dataclass(frozen=True)
class BccResult:
    """Loaded programs and maps: name -> fd, which the caller closes; `map_types`: name -> type number."""

    programs: dict[str, int] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)
    map_types: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def find_headers() -> Path:
    """Kernel headers: $KUBEBEE_KERNEL_HEADERS, this kernel's, else the newest in /usr/src.

    Raises UnsupportedError.
    """
    chosen = os.environ.get("KUBEBEE_KERNEL_HEADERS")
    found = [Path(chosen)] if chosen else [Path("/lib/modules", platform.release(), "build")]
    if not chosen:
        found += sorted(Path("/usr/src").glob("linux-headers-*[!n]"), reverse=True)
    for path in found:
        if (path / "Makefile").exists():
            return path.resolve()
    raise UnsupportedError("BCC needs kernel headers", hint="apt-get install linux-headers-amd64")


def _common_headers(headers: Path) -> Path:
    """Debian keeps what all flavours share (include/linux) in a sibling, linux-headers-VERSION-common."""
    for common in headers.parent.glob("linux-headers-*-common"):
        if headers.name.startswith(common.name.removesuffix("common")):
            return common
    return headers


def load(source: str, programs: Mapping[str, int], filename: str = "program.c") -> BccResult:
    """Compile `source` and load the functions of `programs` (name -> program type number); blocks.

    Raises:
        UnsupportedError: python3-bpfcc or the kernel headers are missing.
        CompileError: clang or the verifier refused it, or the deadline passed.
    """
    refuse_large(source, filename)
    if not _BINDING.is_dir():
        raise UnsupportedError("the Bcc toolchain is not installed", hint="apt-get install python3-bpfcc")
    if not isolation.may_mount():
        raise UnsupportedError(
            "BCC's worker needs a mount and a network namespace of its own, which take CAP_SYS_ADMIN",
            hint="use toolchain Clang, or set loader.capabilities.sysAdmin of the Helm chart",
        )
    headers = find_headers()
    start = time.monotonic()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, tempfile.TemporaryDirectory(prefix="kubebee-bcc-") as folder, tempfile.TemporaryFile() as log:
        request = Path(folder, "request.json")
        request.write_text(json.dumps({"source": source, "programs": dict(programs)}), encoding="utf-8")
        worker = Path(__file__).with_name("bcc_worker.py")
        with theirs:
            process = subprocess.Popen(
                [
                    *("/usr/bin/unshare", "--net", "--mount", "/bin/sh", "-c", _MOUNT, "sh"),
                    *(platform.release(), str(headers), str(_common_headers(headers))),
                    *("/usr/bin/prlimit", "--cpu=20", "--as=4294967296", "--core=0"),
                    *(str(_PYTHON), "-I", str(worker), str(request)),
                ],
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin", "HOME": folder},
            )
        try:
            result, complete = _receive(ours, start + DEADLINE_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if not complete:
            for fd in (*result.programs.values(), *result.maps.values()):
                os.close(fd)
            log.seek(0)
            raise _refused(log.read(16 << 10).decode(errors="replace"), filename, start)
    return BccResult(result.programs, result.maps, result.map_types, time.monotonic() - start)


def _receive(channel: socket.socket, end: float) -> tuple[BccResult, bool]:
    """What came, and whether all of it came."""
    result = BccResult()
    while True:
        channel.settimeout(max(0.001, end - time.monotonic()))
        try:
            message, fds, _, _ = socket.recv_fds(channel, 4096, 1)
        except TimeoutError:
            return result, False
        if not message:
            return result, False
        answer = json.loads(message)
        if answer["kind"] == "end":
            return result, True
        os.set_inheritable(fds[0], False)
        if answer["kind"] == "map":
            result.maps[answer["name"]] = fds[0]
            result.map_types[answer["name"]] = answer["type"]
        else:
            result.programs[answer["name"]] = fds[0]


def _refused(log: str, filename: str, start: float) -> CompileError:
    if time.monotonic() - start >= DEADLINE_SECONDS:
        return CompileError(
            f"bcc was stopped at its limit of {DEADLINE_SECONDS:g} s", reason="CompileTimeout", where=filename
        )
    error = compile_error(log.replace(_VIRTUAL, filename), filename, ())
    if error.diagnostics:
        return error
    last = (log.strip().splitlines() or ["the bcc worker failed and said nothing"])[-1]
    return CompileError(last.removeprefix("Exception: "), where=filename, log=log)

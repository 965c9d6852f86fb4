"""What this kernel and machine can do, each found by trying or reading, with a reason when not."""

from __future__ import annotations

import ctypes
import errno
import functools
import gzip
import os
import platform
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf import netns
from kubebee.bpf.constants import AttachType, Cmd, MapType, ProgType
from kubebee.bpf.libbpf import library
from kubebee.bpf.syscall import BpfError, address, bpf, bpf_errno, errno_name, next_id
from kubebee.errors import KubebeeError, UnsupportedError

MIN_KERNEL = (5, 10)
BTF_PATH = Path("/sys/kernel/btf/vmlinux")

_PMU = Path("/sys/bus/event_source/devices")
_RETURN_ZERO = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit
_INVALID_FD = 0xFFFFFFFF
# bits of CapEff: CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
_CAP_SYS_ADMIN = 21
_CAPS = {"NET_ADMIN": 12, "PERFMON": 38, "BPF": 39}


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that a kernel may have; `why` says what is missing, "" if it is there."""

    name: str
    available: bool
    why: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that keeps kubebee from running here, and what to do about it."""

    reason: str
    message: str
    hint: str


def kernel_version() -> tuple[int, int]:
    """Return (major, minor) of the running kernel."""
    major, minor = platform.release().split("-")[0].split(".")[:2]
    return int(major), int(minor)


def kernel_at_least(major: int, minor: int) -> bool:
    """Compare the running kernel's version."""
    return kernel_version() >= (major, minor)


@functools.cache
def kernel_config() -> dict[str, str]:
    """Return the kernel's build options, for example {"CONFIG_BPF": "y"}; empty if not published."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        pairs = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
        return {name: value for name, _, value in pairs}
    return {}


@functools.cache
def feature(name: str) -> Feature:
    """Probe one feature of FEATURES; the answer is kept, kernels do not change.

    Raises:
        KeyError: there is no probe of this name.
    """
    why = _PROBES[name]()
    return Feature(name, not why, why)


def features() -> list[Feature]:
    """Probe everything."""
    return [feature(name) for name in FEATURES]


def require(name: str) -> None:
    """Make sure of a feature.

    Raises:
        UnsupportedError: it is missing; the message says what.
    """
    found = feature(name)
    if not found.available:
        raise UnsupportedError(
            f"{name}: {found.why}", hint="run it where the kernel has it, or use another attach type"
        )


_NEEDED_BY_HOOK = {
    AttachType.TRACE_FENTRY: "fentry",
    AttachType.TRACE_FEXIT: "fexit",
    AttachType.MODIFY_RETURN: "fexit",
    AttachType.TRACE_ITER: "iter",
    AttachType.TRACE_RAW_TP: "tp_btf",
}
_NEEDED_BY_TYPE = {ProgType.LSM: "lsm", ProgType.STRUCT_OPS: "struct_ops"}


def require_for_program(prog_type: ProgType, attach_type: AttachType) -> None:
    """Make sure that programs of a type can be loaded, to be asked before loading.

    Kernels refuse some types with a bare EPERM, which would read as missing privilege. Types whose
    load says enough itself, and what only attaching needs (kprobe, perf_link, tcx), are not probed here.

    Raises:
        UnsupportedError: the message names what the kernel is missing.
    """
    name = (
        _NEEDED_BY_HOOK.get(attach_type) if prog_type is ProgType.TRACING else _NEEDED_BY_TYPE.get(prog_type)
    )
    if name is not None:
        require(name)


def load_errno(prog_type: ProgType, attach_type: AttachType, btf_id: int = 0) -> int:
    """Load a program that returns 0, drop it, and return the errno, 0 if it was accepted."""
    fd, err = _load(prog_type, attach_type, btf_id)
    if fd >= 0:
        os.close(fd)
    return err


def _load(prog_type: ProgType, attach_type: int = 0, btf_id: int = 0) -> tuple[int, int]:
    """Load a program that returns 0: (descriptor, errno)."""
    license_text = b"GPL\0"
    attr = struct.pack(
        "=IIQQIIQII16sIIIIQIIQII",
        *(prog_type, len(_RETURN_ZERO) // 8, address(_RETURN_ZERO), address(license_text)),
        *(0, 0, 0, 0, 0, b"kb_probe", 0, attach_type, 0, 0, 0, 0, 0, 0, 0, btf_id),
    )
    return bpf_errno(Cmd.PROG_LOAD, attr)


def _tracing(what: str, target: str, prog_type: ProgType, attach_type: AttachType) -> str:
    """Try a program that is tied to a name in the kernel's BTF."""
    if not BTF_PATH.exists():
        return "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
    find = library().libbpf_find_vmlinux_btf_id
    find.argtypes = (ctypes.c_char_p, ctypes.c_int)
    btf_id = find(target.encode(), attach_type)
    if btf_id <= 0:
        return f"the kernel's BTF has no {target}"
    err = load_errno(prog_type, attach_type, btf_id)
    return f"the kernel refuses {what} programs [{errno_name(err)}]" if err else ""


def _fentry(attach_type: AttachType) -> str:
    what = attach_type.name.removeprefix("TRACE_").lower()
    refused = _tracing(what, "bpf_prog_test_run_xdp", ProgType.TRACING, attach_type)
    if not refused:
        return ""
    option = "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"
    if kernel_config() and option not in kernel_config():
        return f"{option} is not built into this kernel"
    return refused + ": no BPF trampolines on kernel functions here"


def _lsm() -> str:
    active = _active_lsms()
    if active is not None and "bpf" not in active:
        return f"bpf is not among the active LSMs ({','.join(active)}): boot with lsm=...,bpf"
    if kernel_config() and "CONFIG_BPF_LSM" not in kernel_config():
        return "CONFIG_BPF_LSM is not built into this kernel"
    refused = _tracing("LSM", "file_open", ProgType.LSM, AttachType.LSM_MAC)
    return refused + ": no BPF trampolines on kernel functions here" if refused else ""


def _active_lsms() -> list[str] | None:
    """Return the active security modules, None where securityfs is not mounted."""
    try:
        return Path("/sys/kernel/security/lsm").read_text().strip().split(",")
    except OSError:
        return None


def _pmu(name: str, option: str) -> str:
    if (_PMU / name / "type").exists():
        return ""
    return f"{option} is not built into this kernel" if name == "kprobe" else f"no {name} events ({option})"


def _tcx() -> str:
    # With an invalid program a kernel that knows tcx says EBADF, an older one EINVAL.
    attr = struct.pack("=IIIIQQ", _INVALID_FD, 1, AttachType.TCX_INGRESS, 0, 0, 0)
    _, err = bpf_errno(Cmd.LINK_CREATE, attr)
    return "" if err == errno.EBADF and kernel_at_least(6, 6) else "tcx needs Linux 6.6"


def _perf_link() -> str:
    # A kernel that knows these links says EBADF of the event, an older one EINVAL of their type. The program
    # has to be there: all kernels look at that first.
    fd, err = _load(ProgType.TRACEPOINT)
    if fd >= 0:
        attr = struct.pack("=IIIIQQ", fd, _INVALID_FD, AttachType.PERF_EVENT, 0, 0, 0)
        _, err = bpf_errno(Cmd.LINK_CREATE, attr)
        os.close(fd)
    return "" if err == errno.EBADF else "links on perf events need Linux 5.15"


def _uprobe_multi() -> str:
    # Of a folder a kernel that knows these links says EBADF, an older one EINVAL.
    fd, err = _load(ProgType.KPROBE, AttachType.TRACE_UPROBE_MULTI)
    if fd >= 0:
        path, offset = b"/\0", b"\0" * 8
        probes = struct.pack("=QQQQIII4x", address(path), address(offset), 0, 0, 1, 0, 0)
        attr = struct.pack("=IIII", fd, 0, AttachType.TRACE_UPROBE_MULTI, 0) + probes
        _, err = bpf_errno(Cmd.LINK_CREATE, attr)
        os.close(fd)
    return "" if err == errno.EBADF else "uprobe_multi links need Linux 6.6"


def _struct_ops() -> str:
    if not BTF_PATH.exists():
        return "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
    return "" if kernel_at_least(6, 4) else "struct_ops links need Linux 6.4"


def _sock_destroy() -> str:
    """Whether iterators can end sockets; kernel functions for programs are in its BTF."""
    if not BTF_PATH.exists():
        return "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
    find = library().libbpf_find_vmlinux_btf_id
    find.argtypes = (ctypes.c_char_p, ctypes.c_int)
    found = find(b"bpf_sock_destroy", AttachType.TRACE_FENTRY) > 0  # by its name, with nothing before it
    return "" if found else "the kernel has no bpf_sock_destroy (Linux 6.5)"


def _netns() -> str:
    try:
        netns.run_in(netns.OWN, lambda: None)
    except OSError as error:
        return f"entering network namespaces takes CAP_SYS_ADMIN [{errno_name(error.errno or 0)}]"
    return ""


def _plain(prog_type: ProgType, attach_type: AttachType = AttachType.CGROUP_INET_INGRESS) -> str:
    err = load_errno(prog_type, attach_type)
    return f"the kernel refuses {prog_type.name} programs [{errno_name(err)}]" if err else ""


def _ringbuf() -> str:
    attr = struct.pack("=IIII", MapType.RINGBUF, 0, 0, os.sysconf("SC_PAGESIZE"))
    fd, err = bpf_errno(Cmd.MAP_CREATE, attr)
    if fd >= 0:
        os.close(fd)
    return f"the kernel refuses ring buffers [{errno_name(err)}]" if err else ""


def _inventory() -> str:
    """Whether programs and links of others can be listed (kernel/bpf/syscall.c: bpf_obj_get_next_id)."""
    try:
        next_id(Cmd.PROG_GET_NEXT_ID, 0)
    except BpfError:
        return "listing programs and links of others needs CAP_SYS_ADMIN"
    return ""


_PROBES: dict[str, Callable[[], str]] = {
    "xdp": lambda: _plain(ProgType.XDP, AttachType.XDP),
    "tcx": _tcx,
    "tracepoint": lambda: _plain(ProgType.TRACEPOINT),
    "raw_tracepoint": lambda: _plain(ProgType.RAW_TRACEPOINT),
    "tp_btf": lambda: _tracing("tp_btf", "sched_switch", ProgType.TRACING, AttachType.TRACE_RAW_TP),
    "iter": lambda: _tracing("iterator", "bpf_map", ProgType.TRACING, AttachType.TRACE_ITER),
    "perf_link": _perf_link,
    "kprobe": lambda: _pmu("kprobe", "CONFIG_KPROBES"),
    "uprobe": lambda: _pmu("uprobe", "CONFIG_UPROBES"),
    "uprobe_multi": _uprobe_multi,
    "fentry": lambda: _fentry(AttachType.TRACE_FENTRY),
    "fexit": lambda: _fentry(AttachType.TRACE_FEXIT),
    "lsm": _lsm,
    "inventory": _inventory,
    "cgroup_skb": lambda: _plain(ProgType.CGROUP_SKB),
    "cgroup_sock_addr": lambda: _plain(ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_BIND),
    "cgroup_sock": lambda: _plain(ProgType.CGROUP_SOCK, AttachType.CGROUP_INET4_POST_BIND),
    "sock_ops": lambda: _plain(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS),
    "sock_destroy": _sock_destroy,
    "netns": _netns,
    "struct_ops": _struct_ops,
    "ringbuf": _ringbuf,
}

FEATURES = tuple(_PROBES)
"""Names of all probes."""


def enable_stats() -> int:
    """Turn on run counts and times of all programs; off again when the returned descriptor is closed.

    Costs about 50 ns per run of a program (measured on a virtual machine).

    Raises:
        BpfError: EPERM without CAP_SYS_ADMIN.
    """
    run_time = 0
    return bpf(Cmd.ENABLE_STATS, struct.pack("=I", run_time), "cannot enable run statistics")


def preflight(bpffs: str | Path = "/sys/fs/bpf") -> list[Problem]:
    """Check what must be there before anything is loaded; empty if all is well."""
    return [problem for check in (_privilege, _kernel, _btf, _libbpf, _compiler) for problem in check()] + (
        [] if is_bpffs(bpffs) else [_no_bpffs(bpffs)]
    )


def is_bpffs(path: str | Path) -> bool:
    """Tell whether a folder, or the nearest of its parents that exists, lies in a BPF file system."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    best, kind = Path("/"), ""
    for line in Path("/proc/thread-self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        mount = Path(fields[4].replace("\\040", " "))
        # Of mounts on one point the last covers the others.
        if (mount == place or mount in place.parents) and len(mount.parts) >= len(best.parts):
            best, kind = mount, fields[fields.index("-") + 1]
    return kind == "bpf"


def _no_bpffs(path: str | Path) -> Problem:
    return Problem("NoBpffs", f"no BPF file system at {path}", f"mount -t bpf bpf {path}")


def _privilege() -> list[Problem]:
    status = Path("/proc/thread-self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if effective >> _CAP_SYS_ADMIN & 1:
        missing = [] if effective >> _CAPS["NET_ADMIN"] & 1 else ["NET_ADMIN"]
    else:
        missing = [name for name, bit in _CAPS.items() if not effective >> bit & 1]
    if not missing:
        return []
    return [
        Problem("NotPrivileged", f"missing capabilities: {', '.join(missing)}", "run as root, or add them")
    ]


def _kernel() -> list[Problem]:
    if kernel_version() >= MIN_KERNEL:
        return []
    wanted = ".".join(map(str, MIN_KERNEL))
    return [
        Problem("KernelTooOld", f"Linux {platform.release()} is too old", f"install Linux {wanted} or newer")
    ]


def _btf() -> list[Problem]:
    if BTF_PATH.exists():
        return []
    hint = "run a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    return [Problem("NoBtf", f"the kernel has no type information at {BTF_PATH}", hint)]


def _libbpf() -> list[Problem]:
    try:
        library()
    except KubebeeError as error:
        return [Problem("NoLibbpf", error.message, error.hint)]
    return []


def _compiler() -> list[Problem]:
    if any(shutil.which(name) for name in ("clang-19", "clang")):
        return []
    return [Problem("NoCompiler", "clang is not installed", "apt-get install clang-19")]

"""Where a program is attached: one model per attach type, told apart by `type`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubebee.api.v1alpha1.common import (
    LATER,
    ApiModel,
    FilePath,
    Identifier,
    Int,
    Line,
    Rule,
    RuledModel,
    Symbol,
    Word,
    at_least_one,
    exactly_one,
)
from kubebee.api.v1alpha1.selectors import Interfaces, PodTargets

XdpMode = Literal["Auto", "Native", "Generic"]
Direction = Literal["Ingress", "Egress"]
Offset = Annotated[Int, Field(ge=0)]
# In cgroup2; not an OS path, so that one manifest fits hosts that mount the hierarchy elsewhere.
Cgroup = Line


class XdpAttach(ApiModel):
    """Runs for every packet that an interface receives, before the kernel allocates an skb."""

    type: Literal["XDP"] = "XDP"
    """Attach type."""
    interfaces: Interfaces
    """Network interfaces."""
    mode: XdpMode = "Auto"
    """Native runs in the driver, Generic in the stack; Auto tries Native first. The status says which."""


class TcAttach(ApiModel):
    """Runs for every packet at traffic control: by a tcx link, on kernels before 6.6 by a filter on clsact.

    A verdict of -1 (TCX_NEXT, TC_ACT_UNSPEC) lets the next program run; TC_ACT_OK, TC_ACT_SHOT and
    TC_ACT_REDIRECT end the chain.
    """

    type: Literal["TC"] = "TC"
    """Attach type."""
    interfaces: Interfaces
    """Network interfaces."""
    direction: Direction
    """Packets that come in or go out."""
    before: Annotated[Word | None, LATER] = None
    """Run before the program of this name that another agent attached."""
    after: Annotated[Word | None, LATER] = None
    """Run after the program of this name that another agent attached."""


class TracepointAttach(ApiModel):
    """Runs at a static tracepoint of the kernel, with its formatted arguments."""

    type: Literal["Tracepoint"] = "Tracepoint"
    """Attach type."""
    category: Identifier
    """Category, such as sched."""
    name: Identifier
    """Tracepoint, such as sched_process_exec."""


class RawTracepointAttach(ApiModel):
    """Runs at a tracepoint, with its raw arguments."""

    type: Literal["RawTracepoint"] = "RawTracepoint"
    """Attach type."""
    name: Identifier
    """Tracepoint, such as sched_process_exec."""


class TpBtfAttach(ApiModel):
    """Runs at a tracepoint, with arguments typed by BTF."""

    type: Literal["TpBtf"] = "TpBtf"
    """Attach type."""
    name: Identifier
    """Tracepoint, such as sched_process_exec."""


class UserProbe(RuledModel):
    """A place in a program or library of user space."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("path", "library"), at_least_one("symbol", "offset"))

    path: FilePath | None = None
    """File to probe."""
    library: Word | None = None
    """Library to probe, by the name that the dynamic linker knows, such as libssl.so.3 or libc."""
    symbol: Symbol | None = None
    """Function in the file."""
    offset: Offset | None = None
    """Bytes after the symbol, or from the start of the file where no symbol is given."""
    pid: Annotated[Int, Field(ge=1)] | None = None
    """Only this process."""
    pods: Annotated[PodTargets | None, LATER] = None
    """Look for the file in the containers of these pods."""


class UprobeAttach(UserProbe):
    """Runs when a function of user space is entered, or at an offset."""

    type: Literal["Uprobe"] = "Uprobe"
    """Attach type."""


class UretprobeAttach(UserProbe):
    """Runs when a function of user space returns."""

    type: Literal["Uretprobe"] = "Uretprobe"
    """Attach type."""


class UsdtAttach(RuledModel):
    """Runs at a statically defined probe of a program."""

    built: ClassVar[bool] = False
    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("path", "library"),)

    type: Literal["Usdt"] = "Usdt"
    """Attach type."""
    path: FilePath | None = None
    """File to probe."""
    library: Word | None = None
    """Library to probe, by the name that the dynamic linker knows, such as libssl.so.3 or libc."""
    provider: Identifier
    """Provider of the probe."""
    name: Identifier
    """Name of the probe."""
    pid: Annotated[Int, Field(ge=1)] | None = None
    """Only this process."""
    pods: Annotated[PodTargets | None, LATER] = None
    """Look for the file in the containers of these pods."""


class KprobeAttach(ApiModel):
    """Runs when a function of the kernel is entered, or at an offset."""

    type: Literal["Kprobe"] = "Kprobe"
    """Attach type."""
    symbol: Symbol
    """Function of the kernel."""
    offset: Offset | None = None
    """Bytes after the symbol."""


class KretprobeAttach(ApiModel):
    """Runs when a function of the kernel returns."""

    type: Literal["Kretprobe"] = "Kretprobe"
    """Attach type."""
    symbol: Symbol
    """Function of the kernel."""


class FentryAttach(ApiModel):
    """Runs when a function of the kernel is entered, with arguments typed by BTF."""

    type: Literal["Fentry"] = "Fentry"
    """Attach type."""
    function: Symbol
    """Function of the kernel."""


class FexitAttach(ApiModel):
    """Runs when a function of the kernel returns, with arguments and result typed by BTF."""

    type: Literal["Fexit"] = "Fexit"
    """Attach type."""
    function: Symbol
    """Function of the kernel."""


class FmodRetAttach(ApiModel):
    """Changes what a function of the kernel returns, where the kernel allows it."""

    built: ClassVar[bool] = False

    type: Literal["FmodRet"] = "FmodRet"
    """Attach type."""
    function: Symbol
    """Function of the kernel."""


class LsmAttach(ApiModel):
    """Decides at a hook of the Linux security modules."""

    type: Literal["Lsm"] = "Lsm"
    """Attach type."""
    hook: Identifier
    """Hook, such as file_open."""


class CgroupSkbAttach(ApiModel):
    """Runs for every packet of the sockets of a cgroup."""

    type: Literal["CgroupSkb"] = "CgroupSkb"
    """Attach type."""
    direction: Direction
    """Packets that come in or go out."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


SockAddrHook = Literal[
    "Bind4", "Bind6", "Connect4", "Connect6", "Sendmsg4", "Sendmsg6", "Recvmsg4", "Recvmsg6",
    "Getpeername4", "Getpeername6", "Getsockname4", "Getsockname6",
]  # fmt: skip


class CgroupSockAddrAttach(ApiModel):
    """Runs when a socket of a cgroup binds, connects, sends or receives by address."""

    type: Literal["CgroupSockAddr"] = "CgroupSockAddr"
    """Attach type."""
    hook: SockAddrHook
    """System call and address family."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


class SockOpsAttach(ApiModel):
    """Runs at events of the TCP connections of a cgroup."""

    type: Literal["SockOps"] = "SockOps"
    """Attach type."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


SockHook = Literal["Create", "Release", "PostBind4", "PostBind6"]


class CgroupSockAttach(ApiModel):
    """Runs when a socket of a cgroup is made or released, or after it was bound."""

    type: Literal["CgroupSock"] = "CgroupSock"
    """Attach type."""
    hook: SockHook
    """Moment in the life of the socket."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


class SockoptAttach(ApiModel):
    """Runs when a process of a cgroup reads or sets a socket option."""

    built: ClassVar[bool] = False

    type: Literal["Sockopt"] = "Sockopt"
    """Attach type."""
    hook: Literal["Get", "Set"]
    """System call: getsockopt or setsockopt."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


class CgroupDeviceAttach(ApiModel):
    """Decides which devices a cgroup may use."""

    built: ClassVar[bool] = False

    type: Literal["CgroupDevice"] = "CgroupDevice"
    """Attach type."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


class SysctlAttach(ApiModel):
    """Runs when a process of a cgroup reads or writes a sysctl."""

    built: ClassVar[bool] = False

    type: Literal["Sysctl"] = "Sysctl"
    """Attach type."""
    cgroup: Cgroup = ""
    """Path in the cgroup2 hierarchy; empty: its root."""


class SkMsgAttach(ApiModel):
    """Decides where messages sent on the sockets of a sockmap go."""

    built: ClassVar[bool] = False

    type: Literal["SkMsg"] = "SkMsg"
    """Attach type."""
    map: Identifier
    """Map of the program that it attaches to."""


class SkSkbAttach(ApiModel):
    """Parses or decides about what the sockets of a sockmap receive."""

    built: ClassVar[bool] = False

    type: Literal["SkSkb"] = "SkSkb"
    """Attach type."""
    map: Identifier
    """Map of the program that it attaches to."""
    hook: Literal["StreamParser", "StreamVerdict", "Verdict"]
    """Which of the map's programs it is."""


class SkLookupAttach(ApiModel):
    """Chooses the listening socket for a packet, in the node's network namespace."""

    built: ClassVar[bool] = False

    type: Literal["SkLookup"] = "SkLookup"
    """Attach type."""


class SkReuseportAttach(ApiModel):
    """Chooses among the sockets that share a port."""

    built: ClassVar[bool] = False

    type: Literal["SkReuseport"] = "SkReuseport"
    """Attach type."""


class IterAttach(ApiModel):
    """Walks over objects of the kernel each time its pinned file is read."""

    type: Literal["Iter"] = "Iter"
    """Attach type."""
    target: Identifier
    """What it walks over, such as task, tcp or bpf_map."""


class StructOpsAttach(ApiModel):
    """Implements a table of kernel functions, such as a TCP congestion control; `name` is that of its map."""

    type: Literal["StructOps"] = "StructOps"
    """Attach type."""


class PerfEventAttach(RuledModel):
    """Runs when a counter of the processor or the kernel overflows."""

    built: ClassVar[bool] = False
    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("period", "frequency"),)

    type: Literal["PerfEvent"] = "PerfEvent"
    """Attach type."""
    event: Literal["CpuClock", "CpuCycles", "Instructions", "CacheMisses", "BranchMisses", "PageFaults"]
    """Counter."""
    period: Annotated[Int, Field(ge=1)] | None = None
    """Events between two runs."""
    frequency: Annotated[Int, Field(ge=1, le=100000)] | None = None
    """Runs a second and processor."""


class SyscallAttach(ApiModel):
    """Is not attached: runs when someone asks for it."""

    built: ClassVar[bool] = False

    type: Literal["Syscall"] = "Syscall"
    """Attach type."""


class FlowDissectorAttach(ApiModel):
    """Takes packet headers apart for the kernel, in the node's network namespace."""

    built: ClassVar[bool] = False

    type: Literal["FlowDissector"] = "FlowDissector"
    """Attach type."""


class NetfilterAttach(ApiModel):
    """Runs at a netfilter hook."""

    built: ClassVar[bool] = False

    type: Literal["Netfilter"] = "Netfilter"
    """Attach type."""
    family: Literal["IPv4", "IPv6"]
    """Protocol family."""
    hook: Literal["PreRouting", "LocalIn", "Forward", "LocalOut", "PostRouting"]
    """Where on the path of a packet."""


Attach = Annotated[
    XdpAttach
    | TcAttach
    | TracepointAttach
    | RawTracepointAttach
    | TpBtfAttach
    | UprobeAttach
    | UretprobeAttach
    | UsdtAttach
    | KprobeAttach
    | KretprobeAttach
    | FentryAttach
    | FexitAttach
    | FmodRetAttach
    | LsmAttach
    | CgroupSkbAttach
    | CgroupSockAddrAttach
    | SockOpsAttach
    | CgroupSockAttach
    | SockoptAttach
    | CgroupDeviceAttach
    | SysctlAttach
    | SkMsgAttach
    | SkSkbAttach
    | SkLookupAttach
    | SkReuseportAttach
    | IterAttach
    | StructOpsAttach
    | PerfEventAttach
    | SyscallAttach
    | FlowDissectorAttach
    | NetfilterAttach,
    Field(discriminator="type"),
]

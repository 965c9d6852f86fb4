"""Programs attach to their hooks, see real traffic and events there, and leave with their links."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubebee.bpf import attach, clsact, iface
from kubebee.bpf.attach import Position
from kubebee.bpf.clsact import Hook
from kubebee.bpf.constants import AttachType, LinkType, ProgType
from kubebee.bpf.features import require_for_program
from kubebee.bpf.link import Link, PerfLinkType
from kubebee.bpf.object import BpfObject, LoadError
from kubebee.bpf.symbols import SymbolError, file_offset
from kubebee.bpf.syscall import BpfError
from kubebee.bpf.tracefs import NoSuchTracepointError
from kubebee.errors import UnsupportedError
from lab.netns import Namespace, inside, veth
from support.clang import HEADERS, LICENSE, compile_c

pytestmark = pytest.mark.root

HYBRID = Path("/sys/fs/cgroup/unified")
CGROUPS = HYBRID if HYBRID.is_dir() else Path("/sys/fs/cgroup")


def counting(section: str, signature: str, result: int = 0, condition: str = "1") -> BpfObject:
    """Load a program "probe" that counts its runs in `hits`."""
    source = (
        HEADERS
        + "__u64 hits = 0;\n"
        + f'SEC("{section}") int probe({signature})\n'
        + f"{{ if ({condition}) __sync_fetch_and_add(&hits, 1); return {result}; }}\n"
        + LICENSE
    )
    obj = BpfObject.open(compile_c(source))
    obj.load()
    return obj


def hits(obj: BpfObject) -> int:
    with obj.maps[".bss"].duplicate() as bss:
        return int(struct.unpack("=Q", (bss.lookup(struct.pack("=I", 0)) or b"")[:8])[0])


def eventually(condition: Callable[[], bool]) -> bool:
    """Poll a condition for up to five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture
def pair(netns: Callable[[str], Namespace]) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, 10.9.0.1 on "left" and 10.9.0.2 on "right"; the test runs in the left one."""
    left, right = netns("left"), netns("right")
    veth(left, "left", right, "right")
    left.ip("addr", "add", "10.9.0.1/24", "dev", "left")
    right.ip("addr", "add", "10.9.0.2/24", "dev", "right")
    with inside(left):
        yield left, right


def send(sender: Namespace, target: str = "10.9.0.1") -> None:
    with sender.socket(socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (target, 9))


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_xdp_counts_packets_and_is_found_on_its_interface(
    pair: tuple[Namespace, Namespace], mode: attach.XdpMode
) -> None:
    index = iface.ifindex("left")
    with counting("xdp", "struct xdp_md *ctx __attribute__((unused))", 2) as obj:
        fd = obj.programs["probe"].fd
        with attach.attach_xdp(fd, index, mode) as link:
            assert (link.info.type, link.info.ifindex) == (LinkType.XDP, index)
            assert iface.xdp_program_on(index) == iface.XdpState(link.info.prog_id, mode, link.info.id)
            with pytest.raises(BpfError) as caught:
                attach.attach_xdp(fd, index, mode)
            assert caught.value.reason == "EBUSY"
            send(pair[1])
            assert eventually(lambda: hits(obj) > 0)
        assert iface.xdp_program_on(index) is None


def test_a_links_program_is_replaced_in_place(pair: tuple[Namespace, Namespace]) -> None:
    context = "struct xdp_md *ctx __attribute__((unused))"
    with (
        counting("xdp", context, 2) as old,
        counting("xdp", context, 2) as new,
        attach.attach_xdp(old.programs["probe"].fd, iface.ifindex("left"), "native") as link,
    ):
        before = link.info
        link.update(new.programs["probe"].fd, expected_prog_fd=old.programs["probe"].fd)
        assert link.info.id == before.id
        assert link.info.prog_id != before.prog_id
        with pytest.raises(BpfError) as caught:
            link.update(new.programs["probe"].fd, expected_prog_fd=old.programs["probe"].fd)
        assert caught.value.reason == "EPERM"
        send(pair[1])
        assert eventually(lambda: hits(new) > 0)
        link.detach()
        assert link.info.ifindex == 0


def test_a_pinned_link_outlives_its_descriptor(pair: tuple[Namespace, Namespace], bpffs: Path) -> None:
    index = iface.ifindex("left")
    with (
        counting("xdp", "struct xdp_md *ctx __attribute__((unused))", 2) as obj,
        attach.attach_xdp(obj.programs["probe"].fd, index, "native") as link,
    ):
        link.pin(bpffs / "link")
        link_id = link.info.id
    with Link.from_pin(bpffs / "link") as again:
        assert again.info.id == link_id
    (bpffs / "link").unlink()
    assert eventually(lambda: iface.xdp_program_on(index) is None)


@pytest.mark.parametrize("ingress", [True, False])
def test_tcx_programs_run_in_the_order_asked_for(pair: tuple[Namespace, Namespace], ingress: bool) -> None:
    index = iface.ifindex("left")
    context = "struct __sk_buff *skb __attribute__((unused))"
    passes, drops = counting("tc", context, -1), counting("tc", context, 2)
    with passes, drops, attach.attach_tcx(drops.programs["probe"].fd, index, ingress) as second:
        place = Position.before_link(second.info.id)
        with attach.attach_tcx(passes.programs["probe"].fd, index, ingress, place) as first:
            assert first.info.type is LinkType.TCX
            send(pair[1] if ingress else pair[0], "10.9.0.1" if ingress else "10.9.0.2")
            assert eventually(lambda: hits(passes) > 0 and hits(drops) > 0)
        with attach.attach_tcx(
            passes.programs["probe"].fd, index, ingress, Position.after_link(second.info.id)
        ):
            before = hits(passes)
            seen = hits(drops)
            send(pair[1] if ingress else pair[0], "10.9.0.1" if ingress else "10.9.0.2")
            assert eventually(lambda: hits(drops) > seen)
            assert hits(passes) == before


@pytest.mark.parametrize("ingress", [True, False])
def test_clsact_carries_a_program_without_tcx(pair: tuple[Namespace, Namespace], ingress: bool) -> None:
    hook = Hook(iface.ifindex("left"), ingress)
    context = "struct __sk_buff *skb __attribute__((unused))"
    with counting("tc", context) as old, counting("tc", context) as new:
        assert clsact.qdisc_of(hook.ifindex) is None
        assert clsact.add_clsact(hook.ifindex)
        assert not clsact.add_clsact(hook.ifindex)
        assert clsact.qdisc_of(hook.ifindex) == "clsact"
        assert clsact.hooks_with_qdisc() == [Hook(hook.ifindex, True), Hook(hook.ifindex, False)]
        clsact.attach_filter(old.programs["probe"].fd, hook, 50, "mine")
        with pytest.raises(BpfError, match="EEXIST"):
            clsact.attach_filter(new.programs["probe"].fd, hook, 50, "other")
        before = clsact.filter_at(hook, 50)
        clsact.replace_filter(new.programs["probe"].fd, hook, 50, "mine")
        seen = hits(old)  # an interface that comes up has things to say of itself
        after = clsact.filter_at(hook, 50)
        assert before is not None
        assert after is not None
        assert (before.name, after.name) == ("mine", "mine")
        assert before.prog_id != after.prog_id
        shown = pair[0].run("tc", "filter", "show", "dev", "left", "ingress" if ingress else "egress").stdout
        assert shown.count("direct-action") == 1
        send(pair[1] if ingress else pair[0], "10.9.0.1" if ingress else "10.9.0.2")
        assert eventually(lambda: hits(new) > 0)
        assert hits(old) == seen
        clsact.remove_filter(hook, 50)
        clsact.remove_filter(hook, 50)
        assert clsact.filters_at(hook) == []
        clsact.remove_clsact(hook.ifindex)
        clsact.remove_clsact(hook.ifindex)
        assert clsact.qdisc_of(hook.ifindex) is None
        assert clsact.filter_at(hook, 50) is None


def test_clsact_lists_filters_of_others_in_order(pair: tuple[Namespace, Namespace]) -> None:
    hook = Hook(iface.ifindex("left"), True)
    left, _ = pair
    left.run("tc", "qdisc", "add", "dev", "left", "clsact")
    place = ("dev", "left", "ingress", "pref", "70", "protocol", "ip")
    left.run("tc", "filter", "add", *place, "bpf", "bytecode", "1,6 0 0 0")
    with counting("tc", "struct __sk_buff *skb __attribute__((unused))") as obj:
        clsact.attach_filter(obj.programs["probe"].fd, hook, 60, "mine")
        found = [(one.priority, one.kind, one.name) for one in clsact.filters_at(hook) if one.handle]
        assert found == [(60, "bpf", "mine"), (70, "bpf", "")]
        with pytest.raises(BpfError, match="EINVAL"):  # one priority has one protocol
            clsact.attach_filter(obj.programs["probe"].fd, hook, 70, "mine")


def test_a_tracepoint_sees_programs_start() -> None:
    with (
        counting("tracepoint/sched/sched_process_exec", "void *ctx __attribute__((unused))") as obj,
        attach.attach_tracepoint(obj.programs["probe"].fd, "sched", "sched_process_exec") as link,
    ):
        assert link.info.perf_type is PerfLinkType.TRACEPOINT
        assert link.info.target == "sched_process_exec"
        subprocess.run(["true"], check=True)
        assert hits(obj) > 0


@pytest.mark.parametrize("name", [("sched", "no_such_event"), ("..", "sched"), ("sched/../sched", "x")])
def test_a_tracepoint_that_is_not_there_is_named(name: tuple[str, str]) -> None:
    with pytest.raises(NoSuchTracepointError, match="tracepoint"):
        attach.attach_tracepoint(-1, *name)


def test_a_raw_tracepoint_sees_programs_start() -> None:
    with counting("raw_tp/sched_process_exec", "void *ctx __attribute__((unused))") as obj:
        with attach.attach_raw_tracepoint(obj.programs["probe"].fd, "sched_process_exec") as link:
            assert link.info.target == "sched_process_exec"
            subprocess.run(["true"], check=True)
            assert hits(obj) > 0
        with pytest.raises(BpfError) as caught:
            attach.attach_raw_tracepoint(obj.programs["probe"].fd, "no_such_event")
        assert caught.value.reason == "ENOENT"


def test_a_tp_btf_program_sees_programs_start() -> None:
    with (
        counting("tp_btf/sched_process_exec", "void *ctx __attribute__((unused))") as obj,
        attach.attach_tracing(obj.programs["probe"].fd) as link,
    ):
        assert link.info.target == "sched_process_exec"
        subprocess.run(["true"], check=True)
        assert hits(obj) > 0


@pytest.mark.parametrize("retprobe", [False, True])
def test_a_uprobe_sees_calls_of_a_library_function(retprobe: bool, bpffs: Path) -> None:
    libc = libc_path()
    with counting("kprobe", "void *ctx __attribute__((unused))") as obj:
        offset = file_offset(libc, "getppid")
        fd = obj.programs["probe"].fd
        with attach.attach_uprobe(fd, libc, offset, pid=os.getpid(), retprobe=retprobe) as link:
            assert link.info.perf_type is (PerfLinkType.URETPROBE if retprobe else PerfLinkType.UPROBE)
            assert (link.info.target, link.info.offset) == (libc, offset)
            os.getppid()
            assert hits(obj) == 1
            link.pin(bpffs / "link")
        os.getppid()
        assert hits(obj) == 2


def libc_path() -> str:
    return next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so.6" in line
    )


@pytest.mark.parametrize("retprobe", [False, True])
def test_a_uprobe_without_a_perf_event_sees_the_same(retprobe: bool, bpffs: Path) -> None:
    path = libc_path()
    other_process = [sys.executable, "-c", "import os; os.getppid()"]
    offset = file_offset(path, "getppid")
    with counting("uprobe.multi", "void *ctx __attribute__((unused))") as obj:
        fd = obj.programs["probe"].fd
        with attach.attach_uprobe_multi(fd, path, offset, os.getpid(), retprobe) as link:
            assert link.info.perf_type is (PerfLinkType.URETPROBE if retprobe else PerfLinkType.UPROBE)
            assert (link.info.target, link.info.offset) == (path, offset)
            os.getppid()
            assert hits(obj) == 1
            subprocess.run(other_process, check=True)
            assert hits(obj) == 1
            link.pin(bpffs / "link")
        os.getppid()
        assert hits(obj) == 2
        with attach.attach_uprobe_multi(fd, path, offset, retprobe=retprobe):
            before = hits(obj)
            subprocess.run(other_process, check=True)
            assert hits(obj) > before


def test_a_symbol_that_a_file_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(SymbolError, match="no function kb_no_such"):
        file_offset("/bin/true", "kb_no_such")
    (tmp_path / "text").write_text("no ELF file")
    with pytest.raises(SymbolError, match="not a 64-bit"):
        file_offset(tmp_path / "text", "main")
    (tmp_path / "cut").write_bytes(Path("/bin/true").read_bytes()[:100])
    with pytest.raises(SymbolError, match="not a complete ELF file"):
        file_offset(tmp_path / "cut", "main")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup that this test's own process is in, for as long as the test runs."""
    if not (CGROUPS / "cgroup.procs").exists():
        pytest.skip("no cgroup2 at /sys/fs/cgroup")
    home = CGROUPS / next(
        line.split("::/", 1)[1] for line in Path("/proc/self/cgroup").read_text().splitlines() if "::" in line
    )
    folder = CGROUPS / f"kb-{os.getpid()}-link"
    folder.mkdir()
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    yield folder
    (home / "cgroup.procs").write_text(str(os.getpid()))
    folder.rmdir()


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_cgroup_program_sees_packets_of_its_processes(cgroup: Path, direction: str) -> None:
    hook = AttachType[f"CGROUP_INET_{direction.upper()}"]
    with (
        counting(f"cgroup_skb/{direction}", "void *skb __attribute__((unused))", 1) as obj,
        attach.attach_cgroup(obj.programs["probe"].fd, cgroup, hook) as link,
    ):
        assert (link.info.cgroup_id, link.info.attach_type) == (cgroup.stat().st_ino, hook)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"x", sock.getsockname())
            sock.recv(1)
        assert hits(obj) == 1


def use_sockets(family: int, loopback: str) -> None:
    """Pass every address hook once: bind, connect, both names, an unconnected send and a receive."""
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((loopback, 0))
        client.sendto(b"x", server.getsockname())
        server.recvfrom(1)
        client.connect(server.getsockname())
        client.getpeername()
        client.getsockname()


SOCK_ADDR_HOOKS = [
    f"{name}{version}"
    for name in ("bind", "connect", "sendmsg", "recvmsg", "getpeername", "getsockname")
    for version in (4, 6)
]


@pytest.mark.parametrize("hook", SOCK_ADDR_HOOKS)
def test_every_socket_address_hook_runs(cgroup: Path, hook: str) -> None:
    family, loopback = (socket.AF_INET, "127.0.0.1") if hook[-1] == "4" else (socket.AF_INET6, "::1")
    with counting(f"cgroup/{hook}", "void *ctx __attribute__((unused))", 1) as obj:
        program = obj.programs["probe"]
        assert program.prog_type is ProgType.CGROUP_SOCK_ADDR
        with attach.attach_cgroup(program.fd, cgroup, program.expected_attach_type):
            use_sockets(family, loopback)
        assert hits(obj) > 0


@pytest.mark.parametrize("hook", ["sock_create", "sock_release", "post_bind4", "post_bind6"])
def test_every_socket_hook_runs(cgroup: Path, hook: str) -> None:
    family, loopback = (socket.AF_INET6, "::1") if hook[-1] == "6" else (socket.AF_INET, "127.0.0.1")
    with counting(f"cgroup/{hook}", "void *ctx __attribute__((unused))", 1) as obj:
        program = obj.programs["probe"]
        assert program.prog_type is ProgType.CGROUP_SOCK
        with attach.attach_cgroup(program.fd, cgroup, program.expected_attach_type):
            use_sockets(family, loopback)
        assert hits(obj) > 0


def test_a_sock_ops_program_sees_a_connection(cgroup: Path) -> None:
    with (
        counting("sockops", "void *ctx __attribute__((unused))", 1) as obj,
        attach.attach_cgroup(obj.programs["probe"].fd, cgroup, AttachType.CGROUP_SOCK_OPS),
    ):
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        assert hits(obj) > 0


def test_a_missing_cgroup_is_named() -> None:
    with pytest.raises(BpfError, match="cgroup /no/such"):
        attach.attach_cgroup(-1, "/no/such", AttachType.CGROUP_INET_INGRESS)


ITERATOR = (
    HEADERS
    + """
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; } __attribute__((preserve_access_index));
struct bpf_map;
struct bpf_iter__bpf_map { struct bpf_iter_meta *meta; struct bpf_map *map; }
    __attribute__((preserve_access_index));
SEC("iter/bpf_map") int dump(struct bpf_iter__bpf_map *ctx)
{
    if (ctx->map)
        bpf_seq_write(ctx->meta->seq, "m", 1);
    return 0;
}
"""
    + LICENSE
)


def test_an_iterator_writes_its_output(bpffs: Path) -> None:
    with BpfObject.open(compile_c(ITERATOR)) as obj:
        obj.load()
        with attach.attach_iter(obj.programs["dump"].fd) as link:
            assert link.info.target == "bpf_map"
            assert set(attach.read_iter(link)) == set(b"m")
            link.pin(bpffs / "maps")
            assert (bpffs / "maps").read_bytes().startswith(b"m")


CONGESTION_CONTROL = (
    HEADERS
    + """
struct sock;
struct tcp_congestion_ops {
    __u32 (*ssthresh)(struct sock *sk);
    void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
    __u32 (*undo_cwnd)(struct sock *sk);
    char name[16];
} __attribute__((preserve_access_index));
__u64 hits = 0;
SEC("struct_ops") __u32 kb_ssthresh(void *ctx __attribute__((unused))) { return 2; }
SEC("struct_ops") void kb_cong_avoid(void *ctx __attribute__((unused))) { __sync_fetch_and_add(&hits, 1); }
SEC("struct_ops") __u32 kb_undo_cwnd(void *ctx __attribute__((unused))) { return 10; }
SEC(".struct_ops.link") struct tcp_congestion_ops kb_cc = {
    .ssthresh = (void *)kb_ssthresh,
    .cong_avoid = (void *)kb_cong_avoid,
    .undo_cwnd = (void *)kb_undo_cwnd,
    .name = "kb_test_cc",
};
"""
    + LICENSE
)


def test_a_congestion_control_registers_and_serves_a_connection(netns: Callable[[str], Namespace]) -> None:
    with BpfObject.open(compile_c(CONGESTION_CONTROL)) as obj:
        obj.load()
        with inside(netns("cc")), attach.attach_struct_ops(obj.maps["kb_cc"]) as link:
            assert link.info.type is LinkType.STRUCT_OPS
            with pytest.raises(LoadError) as caught:
                attach.attach_struct_ops(obj.maps["kb_cc"])
            assert caught.value.errno_name in {"EEXIST", "EBUSY"}
            with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"kb_test_cc")
                client.connect(server.getsockname())
                client.sendall(b"x" * 100_000)
                assert eventually(lambda: hits(obj) > 0)


def test_a_congestion_control_is_replaced_while_connections_use_it(netns: Callable[[str], Namespace]) -> None:
    elf = compile_c(CONGESTION_CONTROL)
    with BpfObject.open(elf) as old, BpfObject.open(elf) as new:
        old.load()
        new.load()
        with inside(netns("cc")), attach.attach_struct_ops(old.maps["kb_cc"]) as link:
            before = link.info
            attach.replace_struct_ops(link, new.maps["kb_cc"])
            assert link.info.id == before.id
            assert link.info.map_id != before.map_id
            with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"kb_test_cc")
                client.connect(server.getsockname())
                client.sendall(b"x" * 100_000)
                assert eventually(lambda: hits(new) > 0)
                assert hits(old) == 0


def test_kprobes_are_refused_with_what_the_kernel_is_missing() -> None:
    with counting("kprobe", "void *ctx __attribute__((unused))") as obj:
        fd = obj.programs["probe"].fd
        if Path("/sys/bus/event_source/devices/kprobe").exists():
            with (
                attach.attach_kprobe(fd, "do_unlinkat"),
                attach.attach_kprobe(fd, "do_unlinkat", retprobe=True),
            ):
                return
        with pytest.raises(UnsupportedError, match="CONFIG_KPROBES is not built into this kernel"):
            attach.attach_kprobe(fd, "do_unlinkat")


@pytest.mark.parametrize(
    ("section", "prog_type", "hook"),
    [
        ("fentry/bpf_prog_test_run_xdp", ProgType.TRACING, AttachType.TRACE_FENTRY),
        ("fexit/bpf_prog_test_run_xdp", ProgType.TRACING, AttachType.TRACE_FEXIT),
        ("lsm/file_open", ProgType.LSM, AttachType.LSM_MAC),
    ],
)
def test_what_needs_trampolines_attaches_or_says_what_is_missing(
    section: str, prog_type: ProgType, hook: AttachType
) -> None:
    try:
        with counting(section, "void *ctx __attribute__((unused))") as obj:
            attach.attach_tracing(obj.programs["probe"].fd).close()
    except LoadError:
        with pytest.raises(UnsupportedError, match=r"kernel refuses|is not built|active LSMs"):
            require_for_program(prog_type, hook)
    else:
        require_for_program(prog_type, hook)

"""A node that is not as it should be: said by name, nothing else touched, mended as soon as it can be."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support import clang
from support.running import KUBEBEE, Running, wait_for
from support.site import EDITED, EXEC, Site, counter, program, running_site, tracer

pytestmark = pytest.mark.root

PINS = "/sys/fs/bpf/kubebee"
KEY = ["key", "7", "0", "0", "0"]
MANY = ["value", "0", "0", "0", "0", "1", "0", "0", "0"]  # 2^32, little-endian


def on_interface(name: str) -> dict[str, object]:
    return {"type": "XDP", "interfaces": {"names": [name]}}


def counted(site: Site, name: str) -> int:
    """`counts` of a program, through its pin."""
    (pin,) = site.running.run("sh", "-c", f"ls {PINS}/m/bpfprogram-{name}/counts@*").stdout.split()
    entries = site.running.bpftool("map", "dump", "pinned", pin)
    return int(entries[0]["formatted"]["value"]) if entries else 0


def test_an_interface_that_is_not_there_is_waited_for(site: Site) -> None:
    with site.undisturbed():
        site.running.apply(program("late", counter(), on_interface("late0")))
        status = site.running.wait_reason("BpfProgram", "late", "TargetNotFound")
        assert not status.stalled
        assert "late0" in status.message
        assert "as soon as it appears" in status.failures[0]["hint"]
        site.lab.node.network.ip("link", "add", "late0", "type", "veth", "peer", "name", "peer0")
        wait_for("a link", lambda: site.running.run("ls", f"{PINS}/l/xdp-chain").stdout.count("late0"), 2)
        status = site.running.wait("BpfProgram", "late", lambda s: s.ready)
        assert [a["point"] for a in status.attachments] == ["late0"]
        site.running.delete("bpfprogram-late.yaml")
        site.running.wait("BpfProgram", "late", lambda status: not status.document, "it is gone")
        site.lab.node.network.ip("link", "del", "late0")


def test_a_foreign_xdp_program_is_left_alone_and_named(site: Site, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.o"
    foreign.write_bytes(
        clang.compile_c(
            clang.HEADERS
            + 'SEC("xdp") int stranger(struct xdp_md *ctx) { (void)ctx; return XDP_PASS; }\n'
            + clang.LICENSE
        )
    )
    network = site.lab.node.network
    network.ip("link", "add", "taken0", "type", "veth", "peer", "name", "peer1")
    network.ip("link", "set", "dev", "taken0", "xdpdrv", "object", str(foreign), "section", "xdp")
    with site.undisturbed():
        before = site.running.bpftool("net", "show", "dev", "taken0")[0]["xdp"]
        site.running.apply(program("guest", counter(), on_interface("taken0")))
        status = site.wait_refused(
            "BpfProgram", "guest", "ForeignProgram", "taken0", "stranger", stalled=False
        )
        assert "bpftool net detach xdp dev taken0" in status.failures[0]["hint"]
        assert site.running.bpftool("net", "show", "dev", "taken0")[0]["xdp"] == before
        network.ip("link", "set", "dev", "taken0", "xdpdrv", "off")
        status = site.running.wait("BpfProgram", "guest", lambda s: s.ready)
        assert [a["point"] for a in status.attachments] == ["taken0"]
        site.running.delete("bpfprogram-guest.yaml")
        network.ip("link", "del", "taken0")


def test_maps_whose_schema_changes_keep_what_fits_and_say_what_is_lost(site: Site) -> None:
    with site.undisturbed():
        site.running.apply(program("schema", tracer(), EXEC))
        site.running.wait_ready("BpfProgram", "schema")
        (pin,) = site.running.run("sh", "-c", f"ls {PINS}/m/bpfprogram-schema/counts@*").stdout.split()
        site.running.run("bpftool", "map", "update", "pinned", pin, *KEY, *MANY)

        site.running.apply(program("schema", tracer(size="16"), EXEC))
        status = site.running.wait_ready("BpfProgram", "schema", 2)
        assert "map counts was made anew: its size changed, 1 entries kept" in status.message
        assert counted(site, "schema") > 1 << 32

        site.running.apply(program("schema", tracer(size="16", value="__u32"), EXEC))
        status = site.running.wait_ready("BpfProgram", "schema", 3)
        assert "map counts was made anew: its layout changed, its contents are lost" in status.message
        assert counted(site, "schema") < 1 << 32
        site.running.delete("bpfprogram-schema.yaml")


@pytest.mark.parametrize("name", ["packets", "edited"])
def test_a_link_detached_behind_its_back_is_attached_again(site: Site, name: str) -> None:
    link = site.running.status("BpfProgram", name).attachments[0]["linkId"]
    site.running.run("bpftool", "link", "detach", "id", str(link))

    def again() -> bool:
        status = site.running.status("BpfProgram", name)
        return status.ready and status.attachments[0]["linkId"] != link

    wait_for("attached again", again, 5)
    assert "eth0" in site.wait_event(name, "Reattached")
    with site.undisturbed():
        pass


def test_a_second_process_of_one_instance_is_refused(site: Site) -> None:
    with site.undisturbed():
        second = site.running.run(KUBEBEE, "run", "-f", str(site.running.manifests), check=False)
        assert second.returncode not in (0, -signal.SIGKILL)
        for word in (PINS, "another kubebee process", "stop the other one"):
            assert word in second.stderr
        assert "Traceback" not in second.stderr


def test_a_full_cache_disk_costs_time_and_nothing_else(tmp_path: Path) -> None:
    cache = tmp_path / "run" / "cache"
    cache.mkdir(parents=True)
    with running_site(tmp_path / "run") as site:
        site.running.run("mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=8", "tmpfs", str(cache))
        site.running.run("sh", "-c", f"cat /dev/zero >{cache}/full", check=False)
        with site.undisturbed():
            site.running.apply(program("uncached", tracer(body="bpf_ktime_get_ns();"), EXEC))
            status = site.running.wait_ready("BpfProgram", "uncached")
            assert "not written: No space left on device" in status.message
            assert status.attachments
        with site.undisturbed():
            site.running.apply(program(EDITED, counter(body="no_such();")))
            site.wait_refused("BpfProgram", EDITED, "CompileFailed", "no_such")


def test_a_bpffs_unmounted_under_it_stops_nothing_and_is_pinned_again(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        running: Running = site.running
        site.traffic()
        before = {
            (kind, name): running.status(kind, name).attachments
            for kind, name in (("BpfProgram", "packets"), ("BpfProgram", "execs"), ("ServiceLB", "shop"))
        }
        running.run("umount", "--lazy", "/sys/fs/bpf")
        for (kind, name), attachments in before.items():
            status = running.wait_reason(kind, name, "BpffsMissing")
            assert "/sys/fs/bpf" in status.message
            assert status.failures[0]["hint"] == "mount -t bpf bpf /sys/fs/bpf"
            assert status.attachments == attachments
        site.wait_event("packets", "BpffsMissing")
        site.traffic()
        assert running.process is not None
        assert running.process.poll() is None

        running.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
        wait_for("pins", lambda: running.run("ls", f"{PINS}/l/xdp-chain").stdout, 10)
        for (kind, name), attachments in before.items():
            status = running.wait(kind, name, lambda status: status.ready)
            assert status.attachments == attachments
        with site.undisturbed():
            running.apply(program("afterwards", tracer(), EXEC))
            running.wait_ready("BpfProgram", "afterwards")

"""After a restart the compiler fails for a while: what runs stays as it is until it works again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import NODE, Lab
from support.running import Running, wait_for
from support.seen import entries
from support.site import counter, program

pytestmark = pytest.mark.root

NAMES = ("first", "second")
ROOM = 10_000
PADDING = f"/* {'.' * 2 * ROOM} */"
XDP = {"type": "XDP", "interfaces": {"names": ["eth0"]}}


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        yield started


def chain(running: Running) -> tuple[int, int]:
    """Link and program on eth0."""
    (pin,) = running.run("sh", "-c", "echo /sys/fs/bpf/kubebee/l/xdp-chain/*").stdout.split()
    shown = running.run("bpftool", "-j", "link", "show", "pinned", pin, check=False)  # fails, and answers
    link = json.loads(shown.stdout)
    assert link["devname"] == "eth0"
    return link["id"], link["prog_id"]


def counts(running: Running, name: str) -> int:
    """How often a program ran."""
    return int(entries(running, name, "counts")[0]["formatted"]["value"])


def objects(running: Running) -> set[Path]:
    """Compiled objects in the cache."""
    return {path for path in running.cache.rglob("*") if path.is_file() and path.parent.name != "running"}


def start_without_room(lab: Lab, running: Running) -> None:
    """Start kubebee where no file may be as large as the sources: the compiler is never reached."""
    limited = Running(
        lambda argv: lab.node_command(["prlimit", f"--fsize={ROOM}:", *argv]), running.cache.parent
    )
    running.process = limited.start().process


def make_room(running: Running) -> None:
    """Let files be of any size again."""
    assert running.process is not None
    subprocess.run(["prlimit", f"--pid={running.process.pid}", "--fsize=unlimited:"], check=True)


def both_count(lab: Lab, running: Running) -> None:
    before = {name: counts(running, name) for name in NAMES}
    lab.client.run("ping", "-c", "1", "-W", "1", NODE)
    for name, count in before.items():
        wait_for(f"{name} counts", lambda n=name, c=count: counts(running, n) > c, 5)


def test_a_chain_waits_for_a_stage_that_cannot_be_compiled_now(lab: Lab, running: Running) -> None:
    running.apply(program("first", counter(), XDP))
    running.wait_ready("BpfProgram", "first")
    known = objects(running)
    running.apply(program("second", counter(body=PADDING), XDP))
    running.wait_ready("BpfProgram", "second")
    lab.client.run("ping", "-c", "1", "-W", "1", NODE)
    before = chain(running)
    running.kill()
    for path in objects(running) - known:
        path.unlink()
    start_without_room(lab, running)
    status = running.wait("BpfProgram", "second", lambda s: s.failures, "the failure")
    assert (status.reason, status.stalled) == ("EFBIG", False)
    waiting = running.wait("BpfProgram", "first", lambda s: not s.ready, "the other one waits")
    assert (waiting.reason, waiting.stalled) == ("Progressing", False)
    assert chain(running) == before
    both_count(lab, running)
    make_room(running)
    for name in NAMES:
        running.wait("BpfProgram", name, lambda s: s.ready and s.attachments)
    assert chain(running) == before, "the chain as it was is taken over"
    both_count(lab, running)


def test_nothing_is_detached_while_nothing_can_be_compiled(lab: Lab, running: Running) -> None:
    manifests = [program(name, counter(body=f"{PADDING} key += {n};"), XDP) for n, name in enumerate(NAMES)]
    for manifest in manifests:
        running.apply(manifest)
    for manifest in manifests:
        running.wait_ready(manifest["kind"], manifest["metadata"]["name"])
    lab.client.run("ping", "-c", "1", "-W", "1", NODE)
    before = chain(running)
    running.kill()
    for path in objects(running):
        path.unlink()
    start_without_room(lab, running)
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        running.wait(manifest["kind"], name, lambda s: s.failures, f"{name} fails")
    assert chain(running) == before
    both_count(lab, running)
    make_room(running)
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        running.wait(manifest["kind"], name, lambda s: s.ready and s.attachments)
    assert chain(running) == before
    both_count(lab, running)

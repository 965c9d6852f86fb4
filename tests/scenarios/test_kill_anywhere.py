"""kill -9 amid edits of all three kinds, again and again: it always converges, and leaves nothing."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import NODE, VIP, Lab, http_get
from support.running import Running, wait_for
from support.seen import entries
from support.site import balancer, counter, policy, program, tracer

pytestmark = pytest.mark.root

ROUNDS = 25
LONGEST_S = 0.6
EXEC = {"type": "RawTracepoint", "name": "sched_process_exec"}
_HASHES_OF_IDS = re.compile(r"(?<=/xdp-chain/)(.*?)@[0-9a-f]{16}|@g[0-9]+$")


def packets(choice: random.Random) -> dict[str, Any]:
    """An XDP program in one of some versions, one of which does not compile."""
    body = choice.choice(["", "bpf_ktime_get_ns();", "bpf_get_smp_processor_id();", "no_such_function();"])
    return program("packets", counter(body=body), where(choice))


def where(choice: random.Random) -> dict[str, Any]:
    """Attach to one interface or to another as well."""
    return {"type": "XDP", "interfaces": {"names": choice.choice([["eth0"], ["eth0", "eth1"]])}}


def edit(running: Running, choice: random.Random) -> None:
    """One edit of something."""

    def remove() -> None:
        for path in running.manifests.glob("bpfprogram-execs.yaml"):
            path.unlink()

    edits: list[Callable[[], None]] = [
        lambda: running.apply(packets(choice)),
        lambda: running.apply(program("execs", tracer(size=choice.choice(["8", "16"])), EXEC)),
        remove,
        lambda: running.apply(balancer("shop", port=choice.choice([80, 81]))),
        lambda: running.apply(policy("edge", "Deny", port=choice.choice(["8080", "8081-8090"]))),
    ]
    choice.choice(edits)()


def final(running: Running) -> None:
    """What shall run in the end."""
    running.apply(program("packets", counter(body="/* final */")))
    running.apply(program("execs", tracer(body="/* final */"), EXEC))
    running.apply(balancer("shop"))
    running.apply(policy("edge", "Deny"))


def wait_for_final(running: Running) -> None:
    """All of it runs, in the version wanted."""

    def looks_final(name: str) -> bool:
        file = running.manifests / ".kubebee" / "accepted" / "BpfProgram" / f"{name}.json"
        record = json.loads(file.read_text())
        status = running.status("BpfProgram", name)
        text = record["manifest"]["spec"]["source"]["inline"]
        return "/* final */" in text and status.ready and status.generation == record["generation"]

    for name in ("packets", "execs"):
        wait_for(f"{name} in its final version", lambda n=name: looks_final(n))
    running.wait_ready("ServiceLB", "shop")
    running.wait_ready("HostPolicy", "edge")


def pins(running: Running) -> set[str]:
    """Every pin, without what differs between two runs: ids of maps and how often something was edited."""
    found = running.run("find", "/sys/fs/bpf/kubebee", "-type", "f").stdout.split()
    return {_HASHES_OF_IDS.sub(r"\1", path) for path in found}


def works(lab: Lab, running: Running) -> None:
    """Traffic is balanced, and counted."""
    (before,) = (entry["formatted"]["value"] for entry in entries(running, "packets", "counts")[:1])
    lab.client.run("ping", "-c", "3", "-i", "0.01", "-W", "1", NODE)
    wait_for("an answer", lambda: http_get(lab.client, VIP), 10)
    assert entries(running, "packets", "counts")[0]["formatted"]["value"] >= before + 3


def test_killed_anywhere_it_converges_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    choice = random.Random(20261124)
    with Running(lab.node_command, tmp_path) as running:
        final(running)
        wait_for_final(running)
        for _ in range(ROUNDS):
            end = time.monotonic() + choice.uniform(0.05, LONGEST_S)
            while time.monotonic() < end:
                edit(running, choice)
                time.sleep(choice.uniform(0, 0.1))
            running.kill()
            running.start()
        final(running)
        wait_for_final(running)
        works(lab, running)
        survived = pins(running)
        running.kill()
        running.run("sh", "-c", "rm -r /sys/fs/bpf/kubebee/[lpm]/*")
        running.start()
        wait_for("the same pins", lambda: pins(running) == survived)

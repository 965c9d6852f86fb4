"""A running kubebee with one good resource of each kind, and a program that tests edit into something bad.

Bad input is judged by what it does to the good: same programs and links in the kernel, counters going on.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import NODE, VIP, Lab, http_get
from support.running import Running, Status, wait_for

Manifest = dict[str, Any]
EDITED = "edited"
"""The program that tests spoil; its good version is always the one attached."""

XDP = {"type": "XDP", "interfaces": {"names": ["eth0"]}}
EXEC = {"type": "RawTracepoint", "name": "sched_process_exec"}

_COUNTER = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {{
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, {size});
	__type(key, __u32);
	__type(value, {value});
}} counts SEC(".maps");

SEC("{section}")
int count({ctx} *ctx)
{{
	__u32 key = 7;
	{value} one = 1, *seen = bpf_map_lookup_elem(&counts, &key);

	(void)ctx;
	if (seen)
		++*seen;
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	{body}
	return {result};
}}

char _license[] SEC("license") = "GPL";
"""
BODY_LINE = 1 + _COUNTER[: _COUNTER.index("{body}")].count("\n")
"""Line of the source that `counter(body=...)` is on."""


def counter(**changes: str) -> str:
    """C of an XDP program `count` that counts its runs under key 7 of `counts`."""
    fields = {"size": "8", "value": "__u64", "section": "xdp", "body": "", "result": "XDP_PASS"}
    fields["ctx"] = "struct xdp_md"
    return _COUNTER.format(**(fields | changes))


def tracer(**changes: str) -> str:
    """C of the same counter at a tracepoint."""
    return counter(**({"section": "raw_tp", "result": "0", "ctx": "void"} | changes))


def resource(kind: str, name: str, spec: Manifest) -> Manifest:
    """A manifest."""
    return {"apiVersion": "kubebee.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def program(name: str, source: str | Manifest, attach: Manifest = XDP, **spec: object) -> Manifest:
    """A BpfProgram of one function, `count`; `source` is C or the whole of spec.source."""
    given = {"inline": source} if isinstance(source, str) else source
    functions = [{"name": "count", "attach": copy.deepcopy(attach)}]
    return resource("BpfProgram", name, {"source": given, "programs": functions, **spec})


def balancer(name: str, address: str = VIP, port: int = 80, backend: str = "10.2.1.2") -> Manifest:
    """A ServiceLB of one frontend with one backend."""
    backends = [{"address": backend, "port": 8080}]
    frontend = {"name": "web", "address": address, "port": port, "protocol": "TCP", "backends": backends}
    interfaces = {"names": ["eth0", "eth1", "eth2"]}
    return resource("ServiceLB", name, {"interfaces": interfaces, "frontends": [frontend]})


def policy(name: str, action: str, cidr: str = "10.1.0.0/24", port: str = "8080", **spec: object) -> Manifest:
    """A HostPolicy of one rule, called `rule`, on eth0."""
    protocols = [{"protocol": "TCP", "ports": [port]}]
    rule = {"name": "rule", "action": action, "from": [{"cidr": cidr}], "protocols": protocols}
    return resource("HostPolicy", name, {"interfaces": {"names": ["eth0"]}, "ingress": [rule], **spec})


GOOD = (
    program("packets", counter()),
    program("execs", tracer(), EXEC),
    program(EDITED, counter(body="/* good */")),
    balancer("shop"),
    policy("edge", "Deny"),
)


@dataclass(frozen=True)
class _Seen:
    """What runs of the good resources.

    Attributes:
        attached: by resource, its attachments as status has them.
        links: in the kernel, (link id, program id) of those.
        runs: by function, how often it ran.
    """

    attached: dict[str, list[Manifest]]
    links: set[tuple[int, int]]
    runs: dict[str, int]


class Site:
    """A lab with a kubebee that runs `GOOD`."""

    def __init__(self, lab: Lab, running: Running) -> None:
        self.lab = lab
        self.running = running
        for manifest in GOOD:
            running.apply(manifest)
        for manifest in GOOD:
            running.wait_ready(manifest["kind"], manifest["metadata"]["name"])
        for backend in ("10.2.1.2", "10.2.2.2"):
            lab.on_node("ping", "-c", "1", "-W", "1", backend)

    def traffic(self) -> None:
        """Something for every good program to count, and proof that the load balancer balances."""
        self.lab.client.run("ping", "-c", "2", "-i", "0.01", "-W", "1", NODE)
        assert http_get(self.lab.client, VIP).startswith("backend")

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Whatever the block does: what is good runs on as it was, and kubebee lives and still listens."""
        running = self.running
        self.traffic()
        before = self._look()
        yield
        assert running.process is not None
        assert running.process.poll() is None, running.log.read_text()[-4000:]
        self.traffic()
        after = self._look()
        assert after.attached == before.attached
        assert after.links == before.links
        for function, runs in before.runs.items():
            assert after.runs[function] > runs, function
        for manifest in GOOD:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            assert name == EDITED or running.status(kind, name).ready, f"{kind}/{name}"

    def refused(self, manifest: Manifest | str, reason: str, *words: str, stalled: bool = True) -> Status:
        """Edit `EDITED` into something that must be refused, and wait for the refusal.

        Checks that everything good, the version before included, runs on untouched, and that the status
        says so with `reason` and `words`.
        """
        running, name = self.running, f"bpfprogram-{EDITED}.yaml"
        with self.undisturbed():
            good = running.status("BpfProgram", EDITED).attachments
            running.apply(manifest, name)
            status = self.wait_refused("BpfProgram", EDITED, reason, *words, stalled=stalled)
            assert status.attachments == good
            assert "the version before it" in status.message
        return status

    def mend(self, kind: str, name: str) -> Status:
        """Apply the good version of a resource again; it is Ready once more."""
        good = next(m for m in GOOD if (m["kind"], m["metadata"]["name"]) == (kind, name))
        self.running.apply(good)
        return self.running.wait(kind, name, lambda status: status.ready, f"{kind}/{name} mended")

    def wait_refused(self, kind: str, name: str, reason: str, *words: str, stalled: bool = True) -> Status:
        """Wait until a resource is refused; says what, where and what to do."""

        def said(status: Status) -> bool:
            text = f"{status.message} {status.failures}"
            return not status.ready and status.reason == reason and all(word in text for word in words)

        status = self.running.wait(kind, name, said, f"{kind}/{name} {reason} {words}")
        assert status.stalled == stalled, status.document
        self.wait_event(name, reason)
        return status

    def wait_event(self, name: str, reason: str) -> str:
        """Wait for a Warning Event about a resource; returns its message."""

        def look() -> list[str]:
            events = (e for e in self.running.events() if e["type"] == "Warning")
            return [e["message"] for e in events if (e["name"], e["reason"]) == (name, reason)]

        return wait_for(f"Event {reason} of {name}", look, 5)[-1]

    def _look(self) -> _Seen:
        running = self.running
        attached = {
            name: running.status(kind, name).attachments
            for kind, name in ((m["kind"], m["metadata"]["name"]) for m in GOOD)
        }
        wanted = {a["linkId"] for found in attached.values() for a in found}
        links = {(e["id"], e["prog_id"]) for e in running.bpftool("link", "show") if e["id"] in wanted}
        assert {link for link, _ in links} == wanted, "links that status names are not in the kernel"
        return _Seen(attached, links, self._runs())

    def _runs(self) -> dict[str, int]:
        """How often each pinned function ran: XDP stages by the chain's accounting, tracers by their map."""
        pins = self.running.run("sh", "-c", "ls -d /sys/fs/bpf/kubebee/m/*/*@*").stdout.split()
        counting = [pin for pin in pins if "/kb_run-" in pin or "/bpfprogram-execs/counts@" in pin]
        assert len(counting) >= len(GOOD), pins
        dump = "; echo ,; ".join(f"bpftool -j map dump pinned {pin}" for pin in counting)
        found = json.loads(f"[{self.running.run('sh', '-c', dump).stdout}]")
        read = zip(counting, found, strict=True)
        return {
            pin: _count(entries) for pin, entries in read if isinstance(entries, list)
        }  # others just went


def _count(entries: list[Manifest]) -> int:
    if "values" not in entries[0]:
        return int(entries[0]["formatted"]["value"])
    values = [bytes(int(byte, 16) for byte in each["value"]) for each in entries[0]["values"]]
    return sum(int.from_bytes(value[:8], "little") for value in values)  # struct kb_run begins with its runs


@contextlib.contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """A lab and a kubebee with the good resources, removed at the end."""
    with Lab() as lab, Running(lab.node_command, folder) as running:
        yield Site(lab, running)


__all__ = ["Site", "running_site", "wait_for"]

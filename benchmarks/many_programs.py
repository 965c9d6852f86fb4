"""What 200 programs cost: a pass that changes nothing, adoption after a restart, memory. Prints JSON.

Needs root. Tracepoint, raw tracepoint and tc programs, and a few of XDP, each compiled from a source of its
own. `noop_pass` is what kubebee's own metric says of the pass that a renamed file with the same bytes causes;
`adoption` is from the start of the process, Python's included, to the last program's Adopted event. Memory is
VmRSS of kubebee's process, compilers not counted.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request

from bench.processes import memory_mib
from bench.report import Figure, Report
from bench.site import kubebee, rename_into, seconds_until
from lab import Lab
from support.running import Running, wait_for

PROGRAMS = 200
SOME = 50
XDP_PROGRAMS = 4
RUNS = 9
PORT = 9751
SETTLE_SECONDS = 3.0

SOURCE = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

SEC("%(section)s")
int bench(%(ctx)s *ctx)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(&seen, &key);

	(void)ctx;
	if (count)
		*count += %(salt)d;
	return %(result)s;
}

char _license[] SEC("license") = "GPL";
"""
ETH0 = {"names": ["eth0"]}
# The kernel lets a tracepoint or a tcx hook have 64 programs.
KINDS: tuple[tuple[dict[str, object], str, str], ...] = (
    ({"type": "Tracepoint", "category": "sched", "name": "sched_process_fork"}, "tracepoint", "0"),
    ({"type": "RawTracepoint", "name": "sched_process_exec"}, "raw_tp", "0"),
    ({"type": "Tracepoint", "category": "sched", "name": "sched_process_exit"}, "tracepoint", "0"),
    ({"type": "RawTracepoint", "name": "sched_process_exit"}, "raw_tp", "0"),
    ({"type": "TC", "interfaces": {"names": ["eth1"]}, "direction": "Ingress"}, "tc", "-1"),
)
XDP: tuple[dict[str, object], str, str] = ({"type": "XDP", "interfaces": ETH0}, "xdp", "2")


def manifest(number: int) -> str:
    attach, section, result = XDP if number < XDP_PROGRAMS else KINDS[number % len(KINDS)]
    context = "struct xdp_md" if section == "xdp" else "void"
    source = SOURCE % {"section": section, "salt": number + 1, "result": result, "ctx": context}
    document = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": f"p{number}"},
        "spec": {"source": {"inline": source}, "programs": [{"name": "bench", "attach": attach}]},
    }
    return json.dumps(document)


class Bench:
    """A kubebee and the programs in its folder."""

    def __init__(self, lab: Lab, running: Running) -> None:
        self._lab = lab
        self._running = running

    def apply(self, numbers: range) -> float:
        """Seconds until all of these are Ready."""
        start = time.perf_counter()
        for number in numbers:
            rename_into(self._running, f"p{number}.json", manifest(number))
        wait_for("all Ready", lambda: self._ready() >= numbers.stop, 60)
        return time.perf_counter() - start

    def _ready(self) -> int:
        folder = self._running.manifests / ".kubebee/status/BpfProgram"
        return sum("reason: Running" in path.read_text() for path in folder.glob("*.yaml"))

    def rss_mib(self) -> float:
        """Memory of kubebee's process, MiB."""
        time.sleep(SETTLE_SECONDS)
        assert self._running.process is not None
        return memory_mib(self._running.process.pid)

    def noop_pass(self) -> float:
        """Milliseconds of a pass over unchanged manifests."""
        count, total = self._passes()
        since = rename_into(self._running, "p0.json", manifest(0))
        seconds_until(lambda: self._passes()[0] > count, since)
        after, seconds = self._passes()
        return (seconds - total) / (after - count) * 1e3

    def _passes(self) -> tuple[float, float]:
        """How many passes there were, and their seconds together."""
        url = f"http://127.0.0.1:{PORT}/metrics"
        text = self._lab.node.network.call(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        found = dict(re.findall(r"^kubebee_reconcile_seconds_(count|sum) (\S+)$", text, re.MULTILINE))
        return float(found["count"]), float(found["sum"])

    def adoption(self) -> float:
        """Seconds from the start of the process to the last adoption."""
        self._running.kill()
        before = self._adopted()
        start = time.perf_counter()
        self._running.start()
        wait_for("adoption", lambda: self._adopted() >= before + PROGRAMS)
        return time.perf_counter() - start

    def _adopted(self) -> int:
        return sum(e["count"] for e in self._running.events() if "adopted" in e["message"])


def main() -> None:
    aim = f"{PROGRAMS} programs: no-op pass < 50 ms, adoption < 2 s; {SOME} programs: at most 80 MB RSS idle"
    report = Report("many_programs", aim, RUNS)
    with kubebee(["--metrics-port", str(PORT)]) as (lab, running):
        running.start()
        bench = Bench(lab, running)
        bench.apply(range(SOME))
        some = bench.rss_mib()
        report.notes["seconds_until_200_are_ready"] = round(bench.apply(range(PROGRAMS)), 1)
        report.notes["rss_after_compiling_200_mib"] = bench.rss_mib()
        noop = [bench.noop_pass() for _ in range(RUNS)]
        adoption = [bench.adoption() for _ in range(RUNS)]
        report.notes["rss_after_adopting_200_mib"] = bench.rss_mib()
    report.figures = {
        "noop_pass": Figure("ms", noop, 50),
        "adoption": Figure("s", adoption, 2),
        f"rss_with_{SOME}_programs": Figure("MiB", [some], 80),
    }
    report.print()


if __name__ == "__main__":
    main()

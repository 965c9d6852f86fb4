"""From the rename of a manifest to the link that runs it, in milliseconds. Prints JSON. Needs root.

A real `kubebee run` in a lab of namespaces; a program is edited again and again, and the moment is taken at
which its link's pin has the new version's name (kubebee renames it after the kernel confirmed the link).

Cases: `cold` compiles a source never seen before, `vmlinux` one that includes vmlinux.h (precompiled header
in place), `cached` goes back to a source that was compiled earlier. XDP programs join a chain: they are
linked with the dispatcher, verified and exchanged in the running link. `xdp_new_shape` is the first edit
that changes how many stages a chain has: its dispatcher is compiled too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from bench.report import Figure, Report
from bench.site import kubebee, names, pins_of, rename_into, seconds_until
from lab import Lab
from support.running import Running

RUNS = 21
PAUSE_SECONDS = 0.1
PLAIN = "#include <linux/bpf.h>\n"
VMLINUX = '#include "vmlinux.h"\n'
AIMS = {"cold": 120, "vmlinux": 300, "cached": 30}

SOURCE = """%(head)s#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

SEC("%(section)s")
int bench(%(ctx)s *ctx)
{
	__u32 key = %(salt)d & 3;
	__u64 *count = bpf_map_lookup_elem(&seen, &key);

	(void)ctx;
	if (count)
		*count += %(salt)d;
	return %(result)s;
}

char _license[] SEC("license") = "GPL";
"""
XDP = {"type": "XDP", "interfaces": {"names": ["eth0"]}}
KINDS = {
    "xdp": (XDP, {"section": "xdp", "ctx": "struct xdp_md", "result": "XDP_PASS"}),
    "tracepoint": (
        {"type": "Tracepoint", "category": "sched", "name": "sched_process_exec"},
        {"section": "tracepoint", "ctx": "void", "result": "0"},
    ),
}


def manifest(name: str, kind: str, head: str, salt: int) -> str:
    attach, words = KINDS[kind]
    source = SOURCE % {"head": head, "salt": salt, **words}
    spec = {"source": {"inline": source}, "programs": [{"name": "bench", "attach": attach}]}
    document = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": name},
        "spec": spec,
    }
    return json.dumps(document)


class Bench:
    """One kubebee, and programs edited in its folder."""

    def __init__(self, lab: Lab, running: Running) -> None:
        self._links = pins_of(lab) / "l"
        self._running = running
        self._salt = 1000

    def fresh(self) -> int:
        """A number that no source had."""
        self._salt += 1
        return self._salt

    def edit(self, name: str, kind: str, head: str, salt: int) -> float:
        """Milliseconds from the edit to the new version's link."""
        folder = self._links / ("xdp-chain" if kind == "xdp" else f"bpfprogram-{name}")
        before = names(folder)
        since = rename_into(self._running, f"{name}.yaml", manifest(name, kind, head, salt))
        seconds = seconds_until(lambda: bool(names(folder) - before), since)
        time.sleep(PAUSE_SECONDS)  # the pass ends after the link: what it tidies up is not for the next edit
        return seconds * 1e3

    def cases(self, kind: str) -> Iterator[tuple[str, list[float]]]:
        """Each case's milliseconds."""
        self.edit(kind, kind, PLAIN, self.fresh())
        yield "cold", [self.edit(kind, kind, PLAIN, self.fresh()) for _ in range(RUNS)]
        self.edit(kind, kind, VMLINUX, self.fresh())  # makes the precompiled header
        yield "vmlinux", [self.edit(kind, kind, VMLINUX, self.fresh()) for _ in range(RUNS)]
        pair = [self.fresh(), self.fresh()]
        for salt in pair:
            self.edit(kind, kind, PLAIN, salt)
        yield "cached", [self.edit(kind, kind, PLAIN, pair[i % 2]) for i in range(RUNS)]


def main() -> None:
    aim = "p50 under 120 ms without vmlinux.h, under 300 ms with it, under 30 ms on a cache hit"
    report = Report("manifest_to_attached", aim, RUNS)
    with kubebee() as (lab, running):
        running.start()
        seconds_until(lambda: (pins_of(lab) / "l").is_dir(), time.perf_counter())
        bench = Bench(lab, running)
        for kind in KINDS:
            for case, values in bench.cases(kind):
                report.figures[f"{kind}_{case}"] = Figure("ms", values, AIMS[case])
        grown = [bench.edit(f"more-{i}", "xdp", PLAIN, bench.fresh()) for i in range(5)]
        report.figures["xdp_new_shape"] = Figure("ms", grown)
    report.print()


if __name__ == "__main__":
    main()

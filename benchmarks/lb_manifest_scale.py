"""10,000 frontends of 10 backends each, from 100 manifests to maps, and one backend changed. Prints JSON.

Needs root. A real `kubebee run` in the lab. `to_maps` is from the start of the process to the moment at which
the map of frontends holds all of them; nothing was loaded before, but its C is compiled. `one_backend_to_map`
is from the rename of a manifest with one backend changed to the frontend's new table in the map. YAML and
JSON each; `parse_alone` is text to dictionaries.
`start_cpu` and `edit_cpu` are what kubebee's threads ran for the same, compilers apart; an edit's goes on to
its last status. They say more than the clock where other work shares the CPUs.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import yaml

from bench.report import Figure, Report
from bench.site import kubebee, pins_of, rename_into, seconds_until
from kubebee.bpf.map import Map
from kubebee.lb.layout import pack_key
from kubebee.lb.model import FrontendKey, Protocol, parse_address
from kubebee.store.manifests import read_documents
from lab import Lab
from support.running import Running, wait_for

FILES = 100
FRONTENDS = 100  # a file
BACKENDS = 10
STARTS = 3
RUNS = 21
RESTING_MS = 20
FORMS = ("json", "yaml")
PAUSE_SECONDS = 0.3
LOOK_SECONDS = 0.01


def address_of(file: int, number: int) -> str:
    return f"10.96.{file}.{number}"


def key_of(file: int, number: int) -> bytes:
    """The frontend's key in the map."""
    return pack_key(FrontendKey(parse_address(address_of(file, number)), 80, Protocol.TCP))


def frontend(file: int, number: int, changed: int = 0) -> dict[str, object]:
    base = (file * FRONTENDS + number) * BACKENDS
    backends = [
        {"address": f"10.{128 + (base + i >> 16)}.{base + i >> 8 & 255}.{base + i & 255}", "port": 8080}
        for i in range(BACKENDS)
    ]
    if changed:
        backends[0]["port"] = changed
    address = address_of(file, number)
    return {"name": f"f{number}", "address": address, "port": 80, "protocol": "TCP", "backends": backends}


def manifest(file: int, form: str, changed: int = 0) -> str:
    spec = {
        "interfaces": {"names": ["eth0"]},
        "frontends": [frontend(file, n, changed if n == 0 else 0) for n in range(FRONTENDS)],
    }
    document = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": f"lb{file}"},
        "spec": spec,
    }
    if form == "json":
        return json.dumps(document)
    return str(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))


class Bench:
    """A kubebee and its folder of ServiceLBs."""

    def __init__(self, lab: Lab, running: Running, form: str) -> None:
        self._lab = lab
        self._running = running
        self._form = form
        self._port = 9000
        for file in range(FILES):
            (running.manifests / f"lb{file}.{form}").write_text(manifest(file, form))

    def _map(self, name: str) -> Map | None:
        pins = sorted((pins_of(self._lab) / "m").glob(f"servicelb-*/{name}@*"))
        return Map.from_pin(str(pins[0])) if pins else None

    def start(self) -> tuple[float, float]:
        """Seconds from the start of kubebee to all frontends in the map, by the clock and on the CPU."""
        since = time.perf_counter()
        self._running.start()
        found: list[Map] = []

        missing = [key_of(file, number) for file in range(FILES) for number in range(FRONTENDS)]

        def look() -> bool:
            time.sleep(LOOK_SECONDS)
            if not found and (opened := self._map("kb_lb_fe")):
                found.append(opened)
            while found and missing and found[0].lookup(missing[-1]) is not None:
                missing.pop()
            return not missing

        seconds = seconds_until(look, since)
        cpu, _ = self._spent()
        found[0].close()
        return seconds, cpu / 1e3

    def stop_and_remove(self) -> None:
        """End kubebee, and take away all that it loaded."""
        self._running.kill()
        self._lab.on_node("sh", "-c", "rm -r /sys/fs/bpf/kubebee")

    def change(self) -> tuple[float, float]:
        """Milliseconds from an edit of one backend's port to the table with that backend, and on the CPU."""
        self._port += 1
        text = manifest(0, self._form, self._port)
        opened = self._map("kb_lb_fe")
        assert opened is not None
        key = key_of(0, 0)
        with opened:
            before = opened.lookup(key)
            idle, _ = self._spent()
            since = rename_into(self._running, f"lb0.{self._form}", text)
            seconds = seconds_until(lambda: opened.lookup(key) != before, since)
        time.sleep(PAUSE_SECONDS)
        return seconds * 1e3, self._spent()[0] - idle

    def settle(self) -> None:
        """Wait until every status is written: that is not part of an edit."""
        folder = self._running.manifests / ".kubebee/status/ServiceLB"
        wait_for("statuses", lambda: len(list(folder.glob("*.yaml"))) >= FILES, 60)
        wait_for("rest", self._rests, 60)

    def _rests(self) -> bool:
        """Whether kubebee wants no CPU for half a second: next hops of 100,000 backends are looked up."""
        before = self._spent()
        time.sleep(0.5)
        return sum(self._spent()) - sum(before) <= RESTING_MS

    def _spent(self) -> tuple[float, float]:
        """Milliseconds that kubebee's threads ran, and that they waited for a CPU."""
        assert self._running.process is not None
        run = wait = 0
        for task in Path(f"/proc/{self._running.process.pid}/task").iterdir():
            words = (task / "schedstat").read_text().split()
            run, wait = run + int(words[0]), wait + int(words[1])
        return run / 1e6, wait / 1e6


def parse_seconds(folder: Path) -> float:
    start = time.perf_counter()
    for path in folder.glob("lb*"):
        read_documents(path)
    return time.perf_counter() - start


def main() -> None:
    aim = "10,000 frontends x 10 backends from manifests to maps < 5 s; one backend changed to map < 20 ms"
    report = Report("lb_manifest_scale", aim, RUNS)
    for form in FORMS:
        with kubebee() as (lab, running):
            bench = Bench(lab, running, form)
            bench.start()  # compiles
            starts = []
            for _ in range(STARTS):
                bench.stop_and_remove()
                starts.append(bench.start())
            bench.settle()
            changes = [bench.change() for _ in range(RUNS)]
            parsing = [parse_seconds(running.manifests) for _ in range(STARTS)]
        report.figures[f"{form}_to_maps"] = Figure("s", [clock for clock, _ in starts], 5)
        report.figures[f"{form}_start_cpu"] = Figure("s", [cpu for _, cpu in starts])
        report.figures[f"{form}_parse_alone"] = Figure("s", parsing)
        report.figures[f"{form}_one_backend_to_map"] = Figure("ms", [clock for clock, _ in changes], 20)
        report.figures[f"{form}_edit_cpu"] = Figure("ms", [cpu for _, cpu in changes])
    report.print()


if __name__ == "__main__":
    main()

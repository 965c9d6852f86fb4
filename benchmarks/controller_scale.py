"""How the controller grows with nodes and resources, against a real API server. Prints JSON.

Needs root. etcd and kube-apiserver run on this machine, with simulated loaders (bench/simulated_loaders.py)
in a process of their own and the real controller in another: all share this machine's processors. For each
size:

- ``edit``: from the change of a BpfProgram's global to Ready of that generation on all nodes in its status;
- ``edit cpu of ...``: processor time of the controller, the API server, etcd and the simulated loaders for
  that: on a machine of its own an edit can't be faster than their sum by the number of processors;
- ``rss``: the controller's peak memory (VmHWM) after all;
- ``idle writes``: writes a second that the API server counted over IDLE_SECONDS without a change;
- notes: requests that the API server counted from the change to the end, by verb, watches left out.

Arguments: sizes as NODESxPROGRAMS, default three sizes each of nodes and programs: some 10 minutes, and
more where Kubernetes has to be built first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from bench.processes import cpu_seconds, memory_mib
from bench.report import Figure, Report
from bench.simulated_loaders import node_name, tls
from cluster import Cluster, ClusterSpec
from cluster.control_plane import API_SERVER, ETCD

SIZES = ("100x20", "300x20", "1000x20", "300x5", "300x10")
EDITS = 5
IDLE_SECONDS = 20.0
SETTLE_SECONDS = 3.0
GIVE_UP_SECONDS = 300.0
CONTROLLER_PORT = 18080
_WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
_TOTAL = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>[0-9.e+]+)$", re.MULTILINE)
_VERB = re.compile(r'verb="([A-Z]+)"')
_NODE = "/api/v1/nodes"
_PROGRAMS = "/apis/kubebee.dev/v1alpha1/bpfprograms"
_ROOT = Path(__file__).parents[1]

SOURCE = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

volatile __u32 limit = 1;

SEC("xdp")
int bench(struct xdp_md *ctx)
{
	(void)ctx;
	return limit > 7 ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""


def program(number: int, limit: int) -> dict[str, Any]:
    """A BpfProgram of 500 bytes of C, for all nodes."""
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": f"p{number}"},
        "spec": {
            "source": {"inline": SOURCE},
            "programs": [{"name": "bench", "attach": {"type": "XDP", "interfaces": {"primary": True}}}],
            "globals": {"limit": limit},
        },
    }


class Api:
    """The real API server, as its administrator.

    Args:
        session: connections to it.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: object = None, kind: str = "json") -> Any:
        """Send a request; 409 and 404 are answers too."""
        headers = {"Content-Type": f"application/{kind}"}
        async with self._session.request(method, path, json=body, headers=headers) as response:
            if response.status >= 400 and response.status not in (404, 409):
                raise RuntimeError(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json()

    async def all(self, method: str, requests: list[tuple[str, object]], kind: str = "json") -> None:
        """Send many, 32 at a time."""
        slots = asyncio.Semaphore(32)

        async def one(path: str, body: object) -> None:
            async with slots:
                await self.call(method, path, body, kind)

        await asyncio.gather(*(one(path, body) for path, body in requests))

    async def requests(self) -> Counter[str]:
        """Requests answered so far, by verb."""
        async with self._session.get("/metrics") as response:
            text = await response.text()
        counted: Counter[str] = Counter()
        for match in _TOTAL.finditer(text):
            verb = _VERB.search(match["labels"])
            assert verb is not None
            counted[verb[1]] += int(float(match["value"]))
        return counted

    async def ready(self, number: int, generation: int, nodes: int) -> bool:
        """Whether a program's status says that a generation runs on all nodes."""
        status = (await self.call("GET", f"{_PROGRAMS}/p{number}")).get("status", {})
        counts = status.get("nodes", {})
        return status.get("observedGeneration") == generation and counts.get("ready") == nodes


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask ten times a second."""
    end = time.monotonic() + GIVE_UP_SECONDS
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {GIVE_UP_SECONDS:g} s")
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def process(command: list[str | Path], log: Path, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    with log.open("w") as output:
        started = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=output, text=True, cwd=_ROOT, **settings
        )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


async def measure(cluster: Cluster, nodes: int, programs: int, report: Report) -> None:
    """One size, on a fresh API server."""
    spec, case = cluster.spec, f"{nodes}x{programs}"
    connector = aiohttp.TCPConnector(limit=64, ssl=tls(spec.certificates))
    loaders_command = [sys.executable, "benchmarks/bench/simulated_loaders.py", spec.server]
    controller_command = [
        *(Path(sys.executable).with_name("kubebee"), "controller", "--namespace", "kubebee-system"),
        *("--kubeconfig", spec.kubeconfig, "--metrics-port", str(CONTROLLER_PORT)),
    ]
    async with aiohttp.ClientSession(spec.server, connector=connector) as session:
        api = Api(session)
        await populate(api, nodes, programs)
        with (
            process(
                [*loaders_command, str(spec.certificates), str(nodes)],
                spec.logs / "loaders.log",
                stdout=subprocess.PIPE,
            ) as loaders,
            process(
                controller_command, spec.logs / "controller.log", stdout=subprocess.DEVNULL
            ) as controller,
        ):
            assert loaders.stdout is not None
            await asyncio.to_thread(loaders.stdout.readline)

            async def all_ready() -> bool:
                return all([await api.ready(number, 1, nodes) for number in range(programs)])

            start = time.perf_counter()
            await until(all_ready, "the first version on all nodes")
            first = time.perf_counter() - start
            processes = {
                "controller": [controller.pid],
                "API server": cluster.control.pids(API_SERVER),
                "etcd": cluster.control.pids(ETCD),
                "loaders": [loaders.pid],
            }
            edits, requests = [], Counter[str]()
            cpu: dict[str, list[float]] = {name: [] for name in processes}
            for edit in range(EDITS):
                await asyncio.sleep(SETTLE_SECONDS)
                before = await api.requests()
                spent = {name: cpu_seconds(*pids) for name, pids in processes.items()}
                start = time.perf_counter()
                await api.call("PATCH", f"{_PROGRAMS}/p0", program(0, edit + 2), "merge-patch+json")
                await until(lambda g=edit + 2: api.ready(0, g, nodes), "the edit on all nodes")  # type: ignore[misc]
                edits.append(time.perf_counter() - start)
                for name, pids in processes.items():
                    cpu[name].append(cpu_seconds(*pids) - spent[name])
                requests = (await api.requests()) - before
            await asyncio.sleep(SETTLE_SECONDS)
            before, idle_from = await api.requests(), cpu_seconds(controller.pid)
            await asyncio.sleep(IDLE_SECONDS)
            idle = (await api.requests()) - before
            idle_cpu = (cpu_seconds(controller.pid) - idle_from) / IDLE_SECONDS
            writes = sum(idle[verb] for verb in _WRITES) / IDLE_SECONDS
            peak = memory_mib(controller.pid, "VmHWM")
            report.figures |= {
                f"{case} first version": Figure("s", [first]),
                f"{case} edit": Figure("s", edits, aim=20 if nodes == 1000 else None),
                **{f"{case} edit cpu of {name}": Figure("s", each) for name, each in cpu.items()},
                f"{case} rss": Figure("MiB", [peak], aim=300 if nodes == 1000 else None),
                f"{case} idle writes": Figure("1/s", [writes], aim=1),
                f"{case} idle cpu": Figure("cores", [idle_cpu]),
            }
            counted = sorted((verb, count) for verb, count in requests.items() if verb != "WATCH" and count)
            report.notes[f"{case} edit requests"] = ", ".join(f"{verb} {count}" for verb, count in counted)


async def populate(api: Api, nodes: int, programs: int) -> None:
    """Namespace, nodes that are Ready, and programs."""
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "kubebee-system"}})
    names = [node_name(number) for number in range(nodes)]
    await api.all("POST", [(_NODE, {"metadata": {"name": name}}) for name in names])
    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated"}
    ready = {"status": {"conditions": [condition]}}
    await api.all("PATCH", [(f"{_NODE}/{name}/status", ready) for name in names], "merge-patch+json")
    await api.all("POST", [(_PROGRAMS, program(number, 1)) for number in range(programs)])


def main(sizes: list[str]) -> int:
    report = Report(
        name="controller_scale",
        aim="1,000 x 20: an edit in all statuses under 20 s; 300 MiB; under 1 idle write a second",
        runs=EDITS,
    )
    failed = False
    for number, size in enumerate(sizes):
        nodes, _, programs = size.partition("x")
        cluster = Cluster(ClusterSpec("kbs", 7))
        began = time.monotonic()
        try:
            cluster.up_without_nodes()
            for crd in sorted((_ROOT / "crds").glob("*.yaml")):
                cluster.apply(crd, "--server-side")
            cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
            asyncio.run(measure(cluster, int(nodes), int(programs), report))
        except TimeoutError as error:  # the figures of the others are worth having
            failed, report.notes[f"{size} failed"] = True, str(error)
        finally:
            cluster.down()
        took = time.monotonic() - began
        print(f"{number + 1} of {len(sizes)} sizes done: {size} in {took:.0f} s", file=sys.stderr)
    report.print()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(SIZES)))

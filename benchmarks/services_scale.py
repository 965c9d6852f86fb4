"""10,000 Services of 10 endpoints each from a list to maps, and one endpoint changed. Prints JSON.

Needs root. A real `kubebee agent` in the lab, and a small API server in this process. `list_to_maps` is from
the moment at which the agent is told of the ServiceLB to that at which the map of frontends holds all
Services; `list_to_maps_cpu` is what the agent's threads ran for that, parsing lists and making larger maps
included, compilers apart. `one_endpoint_to_map` is from the change of an EndpointSlice on the server to
the new table in the map. Memory is the agent's own when all is served and it rests, and at its most.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.processes import memory_mib
from bench.report import Figure, Report
from bench.site import pins_of, scratch, seconds_until
from kubebee.bpf.map import Map
from kubebee.lb.layout import pack_key
from kubebee.lb.model import FrontendKey, Protocol, parse_address
from lab import Lab
from support.api_server import ApiServer
from support.node_agent import NODE_NAME, NodeAgent, served
from support.running import wait_for

SERVICES = 10_000
ENDPOINTS = 10
STARTS = 3
RUNS = 21
REST_SECONDS = 0.5
TRIMMED_SECONDS = 4
"""After which memory that is free has been given back."""
RESTING_MS = 20
BALANCER = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "all"},
    "spec": {"interfaces": {"names": ["eth0"]}, "services": {"all": True}},
}
_UID = "00000000-0000-0000-0000-000000000000"


def metadata(name: str, number: int, **more: object) -> dict[str, object]:
    fields = [{"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:spec": {}}}]
    common = {"namespace": f"ns{number % 100}", "uid": _UID, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"name": name, **common, "managedFields": fields, **more}


def address(number: int) -> str:
    return f"10.96.{number >> 8}.{number & 255}"


def service(number: int) -> dict[str, Any]:
    port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
    spec = {
        "type": "ClusterIP",
        "clusterIP": address(number),
        "clusterIPs": [address(number)],
        "ports": [port],
    }
    more = {"ipFamilies": ["IPv4"], "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
    return {
        "kind": "Service",
        "metadata": metadata(f"s{number}", number, labels={"app": f"a{number}"}),
        "spec": {**spec, **more},
        "status": {"loadBalancer": {}},
    }


def endpoint(number: int) -> dict[str, object]:
    return {
        "addresses": [f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node{number % 100}",
        "zone": "a",
        "targetRef": {"kind": "Pod", "namespace": "ns", "name": f"pod-{number}", "uid": _UID},
    }


def endpoint_slice(number: int, port: int = 8080, endpoints: int = ENDPOINTS) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": f"s{number}"}
    return {
        "kind": "EndpointSlice",
        "metadata": metadata(f"s{number}-x", number, labels=labels),
        "addressType": "IPv4",
        "endpoints": [endpoint(number * ENDPOINTS + i) for i in range(endpoints)],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


def key_of(number: int) -> bytes:
    return pack_key(FrontendKey(parse_address(address(number)), 80, Protocol.TCP))


class Bench:
    """An agent, its API server and its maps."""

    def __init__(self, lab: Lab, api: ApiServer, agent: NodeAgent) -> None:
        self._lab, self._api, self._agent = lab, api, agent
        self._bundle = api.put_bundle(BALANCER)

    def serve_all(self) -> tuple[float, float]:
        """Seconds from the wish to all Services in the map, by the clock and on the CPU."""
        idle, since = self.spent(), time.perf_counter()
        self._api.set_spec(NODE_NAME, [self._bundle])
        missing = list(map(key_of, range(SERVICES)))

        def look() -> bool:
            time.sleep(0.01)
            newest = self._map("kb_lb_fe")
            if newest is not None:
                with newest:
                    while missing and newest.lookup(missing[-1]) is not None:
                        missing.pop()
            return not missing

        seconds = seconds_until(look, since)
        return seconds, (self.spent() - idle) / 1e3

    def serve_none(self) -> None:
        """Take it all away; the agent stays."""
        self._api.set_spec(NODE_NAME, [])
        wait_for("nothing is pinned", lambda: self._map("kb_lb_fe") is None)
        self.rest()

    def change(self, number: int) -> tuple[float, float]:
        """Milliseconds from a change of one EndpointSlice to the new table, and on the CPU."""
        opened = self._map("kb_lb_fe")
        assert opened is not None
        key = key_of(number)
        with opened:
            before, idle = opened.lookup(key), self.spent()
            since = time.perf_counter()
            self._api.put(endpoint_slice(number, endpoints=ENDPOINTS - 1))
            seconds = seconds_until(lambda: opened.lookup(key) != before, since)
        self.rest()
        return seconds * 1e3, self.spent() - idle

    def memory(self) -> tuple[float, float]:
        """MiB resident now, and at most."""
        assert self._agent.process is not None
        pid = self._agent.process.pid
        return memory_mib(pid), memory_mib(pid, "VmHWM")

    def rest(self) -> None:
        """Wait until the agent wants no CPU."""

        def rests() -> bool:
            before = self.spent()
            time.sleep(REST_SECONDS)
            return self.spent() - before <= RESTING_MS

        wait_for("rest", rests, 120)

    def spent(self) -> float:
        """Milliseconds that the agent's threads ran."""
        assert self._agent.process is not None
        tasks = Path(f"/proc/{self._agent.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6

    def _map(self, name: str) -> Map | None:
        """The newest map of a name that is pinned."""
        found = sorted(
            (pins_of(self._lab) / "m").glob(f"servicelb-*/{name}@*"), key=lambda p: p.stat().st_ctime
        )
        return Map.from_pin(str(found[-1])) if found else None


def main() -> None:
    aim = "10,000 Services x 10 endpoints from a list to maps < 3 s CPU; one change < 20 ms; 120 MB resident"
    report = Report("services_scale", aim, RUNS)
    with scratch() as folder, Lab() as lab, served(lab) as api:
        api.put(*map(service, range(SERVICES)), *map(endpoint_slice, range(SERVICES)))
        agent = NodeAgent(lab, api, folder)
        try:
            api.set_spec(NODE_NAME, [])
            agent.start()
            agent.wait_ready_by_probe()
            bench = Bench(lab, api, agent)
            bench.serve_all()  # compiles
            starts = []
            for _ in range(STARTS):
                bench.serve_none()
                starts.append(bench.serve_all())
            bench.rest()
            time.sleep(TRIMMED_SECONDS)
            resident, most = bench.memory()
            changes = [bench.change(number * 97) for number in range(RUNS)]
        finally:
            if agent.process is not None:
                agent.kill()
    report.figures = {
        "list_to_maps": Figure("s", [clock for clock, _ in starts]),
        "list_to_maps_cpu": Figure("s", [cpu for _, cpu in starts], 3),
        "one_endpoint_to_map": Figure("ms", [clock for clock, _ in changes], 20),
        "one_endpoint_cpu": Figure("ms", [cpu for _, cpu in changes]),
        "resident": Figure("MiB", [resident], 120),
        "resident_at_most": Figure("MiB", [most]),
    }
    report.notes = {"services": SERVICES, "endpoints_each": ENDPOINTS}
    report.print()


if __name__ == "__main__":
    main()

"""Metrics of the controller itself; what runs on the nodes is told by their loaders."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kubebee import __version__

_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What the controller counts.

    Attributes:
        registry: what /metrics shows.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        info = Gauge("kubebee_build_info", "Version of kubebee; 1.", ("version",), registry=self.registry)
        info.labels(__version__).set(1)
        self._leader = Gauge(
            "kubebee_controller_is_leader",
            "Whether this controller holds the Lease and acts.",
            registry=self.registry,
        )
        self._depth = Gauge(
            "kubebee_controller_queue_depth", "Objects with news not yet looked at.", registry=self.registry
        )
        self._reconcile = Histogram(
            "kubebee_controller_reconcile_seconds",
            "A round from news to the answers of all writes.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._plan = Histogram(
            "kubebee_controller_plan_seconds",
            "Planning, of a round.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "kubebee_controller_api_requests",
            "Requests to the API server, those of the watches by kopf left out; code 0: no answer.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self._writes = Counter(
            "kubebee_controller_writes",
            "Writes that a plan asked for, by what and result: done or failed.",
            ("object", "result"),
            registry=self.registry,
        )
        self._objects = Gauge(
            "kubebee_controller_objects", "Objects known, by kind.", ("kind",), registry=self.registry
        )

    def watch(self, is_leader: Callable[[], bool], depth: Callable[[], int]) -> None:
        """Ask these for their gauges when metrics are read."""
        self._leader.set_function(lambda: float(is_leader()))
        self._depth.set_function(lambda: float(depth()))

    def request(self, verb: str, resource: str, code: str) -> None:
        """Count a request."""
        self._requests.labels(verb, resource, code).inc()

    def write(self, what: str, done: bool) -> None:
        """Count a write."""
        self._writes.labels(what, "done" if done else "failed").inc()

    def round(self, seconds: float, planning: float) -> None:
        """Count a round."""
        self._reconcile.observe(seconds)
        self._plan.observe(planning)

    def objects(self, counts: dict[str, int]) -> None:
        """Objects known."""
        for kind, count in counts.items():
            self._objects.labels(kind).set(count)

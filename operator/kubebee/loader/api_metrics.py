"""Metrics of a loader's dealings with the API server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class ApiMetrics:
    """Counts requests.

    Args:
        registry: what they are shown with.
        watching: whether news would come in now.
    """

    def __init__(self, registry: CollectorRegistry, watching: Callable[[], bool]) -> None:
        self._requests = Counter(
            "kubebee_loader_api_requests",
            "Requests to the API server; code 0: no answer.",
            ("verb", "code"),
            registry=registry,
        )
        gauge = Gauge(
            "kubebee_loader_watching", "Whether the node's BpfNode is being watched.", registry=registry
        )
        gauge.set_function(lambda: float(watching()))

    def observe(self, verb: str, code: str) -> None:
        """Count an answer."""
        self._requests.labels(verb, code).inc()

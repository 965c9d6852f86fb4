"""Metrics of the Services that a node serves; docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubebee.loader.lb_services import ServiceSource


class ServiceMetrics(Collector):
    """Gauges of what is known and served; none while nobody wants Services.

    Args:
        registry: what they are shown with.
        source: where Services come from. Only counts that it keeps are read, so any thread may ask.
    """

    def __init__(self, registry: CollectorRegistry, source: ServiceSource) -> None:
        self._source = source
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: all of it may be absent."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        source = self._source
        if not source.wanted:
            return
        counts = source.table.counts
        values = (
            ("kubebee_services", "Services that are served.", counts.services),
            (
                "kubebee_services_endpoints",
                "Endpoints of these, serving or not.",
                counts.endpoints,
            ),
            (
                "kubebee_services_frontends",
                "Addresses with port that these and host ports have.",
                counts.frontends,
            ),
            ("kubebee_host_ports", "Host ports of this node's pods that are served.", counts.host_ports),
            (
                "kubebee_services_left_out",
                "Addresses with port that are served for somebody else, who has the stronger claim.",
                counts.left_out,
            ),
            (
                "kubebee_services_synced",
                "Whether all Services were listed; until then those in the maps stay.",
                float(source.table.synced),
            ),
            ("kubebee_services_watching", "Whether news of Services would come in now.", source.watching),
            (
                "kubebee_services_last_heard_timestamp_seconds",
                "When the source of Services said anything last.",
                source.heard_at,
            ),
        )
        for name, text, value in values:
            yield GaugeMetricFamily(name, text, value=float(value))

"""Prometheus metrics of a node, docs/metrics.md lists them.

Counters of the kernel are read at scrape time, on the loader's thread; what only happens once (passes,
compilations, errors) is counted as it happens. Labels hold names from manifests and fixed words only, and
every family has a bounded number of series.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubebee import __version__
from kubebee.errors import KubebeeError
from kubebee.loader.loader import Loader
from kubebee.loader.readings import Readings, take
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import NodeReport

MAX_SERIES = 2_000
"""Functions, rules or maps shown at most; kubebee_series_left_out says how many are not."""
READ_DEADLINE_S = 5.0
"""A pass that keeps the loader's thread for longer makes a scrape show the counters before it."""
MAP_COUNT_EVERY_S = 30.0
_PASS_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
_BUILD_BUCKETS = (0.03, 0.06, 0.12, 0.3, 0.6, 1.0, 3.0, 10.0)
_UNIT = ("kind", "name")


class Metrics:
    """All metrics of one loader.

    Args:
        loader: is read on its own thread.
        loop: the loop that runs the loader.
    """

    def __init__(self, loader: Loader, loop: asyncio.AbstractEventLoop) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # twice the series for nothing that a rate needs
        self.registry = CollectorRegistry()
        Info("kubebee_build", "Version of kubebee.", registry=self.registry).info({"version": __version__})
        self._passes = Histogram(
            "kubebee_reconcile_seconds",
            "Duration of a pass from manifests to the kernel.",
            registry=self.registry,
            buckets=_PASS_BUCKETS,
        )
        self._compiles = Histogram(
            "kubebee_compile_seconds",
            "Time that compiling a resource took; hits of the cache are not in it.",
            registry=self.registry,
            buckets=_BUILD_BUCKETS,
        )
        self._loads = Histogram(
            "kubebee_load_seconds",
            "Time that verifying and loading, or adopting, a resource took.",
            registry=self.registry,
            buckets=_BUILD_BUCKETS,
        )
        self._errors = Counter(
            "kubebee_errors", "Failures by stage and reason.", ("stage", "reason"), registry=self.registry
        )
        self._seen: dict[ResourceKey, tuple[float, float, str]] = {}
        self.registry.register(_KernelCounters(loader, loop))

    def observe_pass(self, report: NodeReport, seconds: float) -> None:
        """Count what a pass did; what a report repeats of earlier passes is not counted again."""
        self._passes.observe(seconds)
        for key, unit in report.units.items():
            failure = f"{unit.failure.reason} {unit.failure.message}" if unit.failure else ""
            before = self._seen.get(key, (0.0, 0.0, ""))
            if unit.compile_seconds not in (0.0, before[0]):
                self._compiles.observe(unit.compile_seconds)
            if unit.load_seconds not in (0.0, before[1]):
                self._loads.observe(unit.load_seconds)
            if unit.failure and failure != before[2]:
                self._errors.labels(unit.failure.stage.value, unit.failure.reason).inc()
            self._seen[key] = (unit.compile_seconds, unit.load_seconds, failure)
        for gone in self._seen.keys() - report.units.keys():
            del self._seen[gone]

    def observe_refusal(self, error: KubebeeError) -> None:
        """Count a manifest or resource that can't be acted on."""
        self._errors.labels("Plan", error.reason).inc()

    @contextlib.contextmanager
    def serve(self, address: str, port: int) -> Iterator[None]:
        """Serve them by HTTP under /metrics within this block.

        Raises:
            KubebeeError: the address can't be listened on.
        """
        try:
            server, thread = start_http_server(port, address, self.registry)
        except OSError as error:
            raise KubebeeError(
                f"metrics can't be served: {error.strerror or error}",
                reason="MetricsAddress",
                where=f"{address}:{port}",
                hint="choose another --metrics-port or --metrics-address",
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _KernelCounters(Collector):
    """Reads the kernel's counters when asked."""

    def __init__(self, loader: Loader, loop: asyncio.AbstractEventLoop) -> None:
        self._loader = loader
        self._loop = loop
        self._lock = threading.Lock()
        self._last: Readings | None = None
        self._counted_at = float("-inf")
        self._missed = 0

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would collect while the loader starts."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, as they are now, or as they were if the loader is busy or half-way in a change."""
        with self._lock:
            readings = self._read()
            missed = CounterMetricFamily(
                "kubebee_missed_readings", "Scrapes that show older counters: the loader was busy."
            )
            missed.add_metric((), self._missed)
        yield missed
        if readings is not None:
            yield from _families(readings)

    def _read(self) -> Readings | None:
        now = time.monotonic()
        count_maps = now - self._counted_at >= MAP_COUNT_EVERY_S
        future = asyncio.run_coroutine_threadsafe(_take(self._loader, count_maps), self._loop)
        try:
            readings = future.result(READ_DEADLINE_S)
        except (FutureTimeoutError, KubebeeError, LookupError, ValueError):
            future.cancel()
            self._missed += 1
            return self._last
        if count_maps:
            self._counted_at = now
        elif self._last is not None:
            readings = readings.with_maps(self._last.maps)
        self._last = readings
        return readings


async def _take(loader: Loader, count_maps: bool) -> Readings:
    return take(loader, count_maps=count_maps)


def _families(readings: Readings) -> Iterator[Metric]:
    yield from _units(readings)
    yield from _functions(readings)
    yield from _frontends(readings)
    yield _checked(readings)
    yield from _rules(readings)
    yield from _drops(readings)
    yield from _maps(readings)
    yield _left_out(readings)


def _unit_labels(key: ResourceKey) -> tuple[str, str]:
    return (key.kind, key.name)


def _units(readings: Readings) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "kubebee_programs", "Units of code by the stage they are in.", labels=("kind", "stage")
    )
    counts: dict[tuple[str, str], int] = {}
    for unit in readings.units:
        label = (unit.key.kind, unit.stage)
        counts[label] = counts.get(label, 0) + 1
    for label, count in sorted(counts.items()):
        family.add_metric(label, count)
    yield family


def _functions(readings: Readings) -> Iterator[Metric]:
    labels = (*_UNIT, "function", "type")
    runs = CounterMetricFamily("kubebee_program_runs", "Runs of a function.", labels=labels)
    seconds = CounterMetricFamily(
        "kubebee_program_run_seconds", "Time in a function; of XDP extrapolated.", labels=labels
    )
    verdicts = CounterMetricFamily(
        "kubebee_xdp_verdicts", "Runs of an XDP function by verdict.", labels=(*_UNIT, "function", "verdict")
    )
    for reading in readings.functions[:MAX_SERIES]:
        unit = _unit_labels(reading.key)
        runs.add_metric((*unit, reading.function, reading.type), reading.runs)
        seconds.add_metric((*unit, reading.function, reading.type), reading.seconds)
        for verdict, count in reading.verdicts.items():
            verdicts.add_metric((*unit, reading.function, verdict), count)
    yield from (runs, seconds, verdicts)


def _frontends(readings: Readings) -> Iterator[Metric]:
    labels = ("servicelb", "frontend")
    total = GaugeMetricFamily("kubebee_servicelb_frontends", "Frontends that are served.")
    total.add_metric((), readings.frontend_count)
    packets = CounterMetricFamily(
        "kubebee_servicelb_packets", "Packets of clients to a frontend.", labels=labels
    )
    size = CounterMetricFamily("kubebee_servicelb_bytes", "IP bytes of these packets.", labels=labels)
    connections = CounterMetricFamily(
        "kubebee_servicelb_connections", "Connections opened through a frontend.", labels=labels
    )
    backends = GaugeMetricFamily(
        "kubebee_servicelb_backends", "Backends of a frontend.", labels=(*labels, "state")
    )
    for frontend in readings.frontends:
        label = (_servicelb(frontend.owner), str(frontend.key))
        packets.add_metric(label, frontend.counts.packets)
        size.add_metric(label, frontend.counts.ip_bytes)
        connections.add_metric(label, frontend.counts.connections)
        draining = sum(backend.draining for backend in frontend.backends)
        backends.add_metric((*label, "active"), len(frontend.backends) - draining)
        backends.add_metric((*label, "draining"), draining)
    yield from (total, packets, size, connections, backends)


def _checked(readings: Readings) -> Metric:
    family = GaugeMetricFamily(
        "kubebee_lb_backend_healthy",
        "1 while a backend passes its checks, 0 while it fails them.",
        labels=("servicelb", "frontend", "backend"),
    )
    for reading in readings.checked[:MAX_SERIES]:
        label = (_servicelb(reading.owner), str(reading.frontend), str(reading.backend))
        family.add_metric(label, reading.up)
    return family


def _rules(readings: Readings) -> Iterator[Metric]:
    labels = ("hostpolicy", "rule", "action", "mode")
    packets = CounterMetricFamily(
        "kubebee_hostpolicy_packets",
        "Packets that a rule decided, or in audit mode would have.",
        labels=labels,
    )
    size = CounterMetricFamily(
        "kubebee_hostpolicy_bytes", "Bytes of the frames of these packets.", labels=labels
    )
    sums: dict[tuple[str, str, str], list[int]] = {}
    # Rules nobody wrote are in the rule set of each interface selector; here they are one.
    for rule in readings.rules[:MAX_SERIES]:
        counts = sums.setdefault((rule.policy, rule.rule, rule.action.value), [0, 0, 0, 0])
        read = (rule.packets, rule.bytes, rule.audit_packets, rule.audit_bytes)
        counts[:] = [have + more for have, more in zip(counts, read, strict=True)]
    for label, (decided, decided_bytes, audited, audited_bytes) in sums.items():
        packets.add_metric((*label, "enforce"), decided)
        packets.add_metric((*label, "audit"), audited)
        size.add_metric((*label, "enforce"), decided_bytes)
        size.add_metric((*label, "audit"), audited_bytes)
    yield from (packets, size)


def _drops(readings: Readings) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "kubebee_dropped_packets", "Packets dropped by a built-in stage.", labels=(*_UNIT, "reason")
    )
    for reading in readings.drops:
        for reason, packets in reading.packets.items():
            family.add_metric((*_unit_labels(reading.key), reason), packets)
    yield family


def _maps(readings: Readings) -> Iterator[Metric]:
    labels = (*_UNIT, "map")
    entries = GaugeMetricFamily("kubebee_map_entries", "Entries of a hash or LPM map.", labels=labels)
    room = GaugeMetricFamily("kubebee_map_max_entries", "Entries that a map has room for.", labels=labels)
    for reading in readings.maps[:MAX_SERIES]:
        label = (*_unit_labels(reading.key), reading.name)
        room.add_metric(label, reading.max_entries)
        if reading.entries is not None:
            entries.add_metric(label, reading.entries)
    yield from (entries, room)


def _left_out(readings: Readings) -> Metric:
    family = GaugeMetricFamily(
        "kubebee_series_left_out", "Objects without metrics, for there are too many.", labels=("object",)
    )
    family.add_metric(("function",), max(0, len(readings.functions) - MAX_SERIES))
    family.add_metric(("frontend",), readings.frontend_count - len(readings.frontends))
    family.add_metric(("checked backend",), max(0, len(readings.checked) - MAX_SERIES))
    family.add_metric(("rule",), max(0, len(readings.rules) - MAX_SERIES))
    family.add_metric(("map",), max(0, len(readings.maps) - MAX_SERIES))
    return family


def _servicelb(owner: str) -> str:
    """The name of the ServiceLB in a frontend's owner, which is written as ServiceLB/web:http."""
    return owner.removeprefix("ServiceLB/").partition(":")[0]

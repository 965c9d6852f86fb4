"""One node: a store of resources, planner and loader in one process, with a cluster or without."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.bpf.addresses import own_addresses
from kubebee.bpf.iface import LinkWatcher, interfaces, primary_interface
from kubebee.cli.allocator import trim_memory
from kubebee.cli.collector import collector_spared, collector_waiting
from kubebee.cli.node_board import NodeBoard
from kubebee.cli.outcomes import outcomes, status_document, unit_keys
from kubebee.cli.status_board import STATUS_SECONDS, StatusBoard
from kubebee.errors import KubebeeError
from kubebee.lb.services.claims import Shape
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.table import ServiceTable
from kubebee.lb.services.wanted import ServicesWanted
from kubebee.loader.frames import losing_interfaces
from kubebee.loader.host import Host, TcChoice, find_cgroup2, tc_mode
from kubebee.loader.host_files import HostFiles
from kubebee.loader.lb_services import LbServices, ServiceSource
from kubebee.loader.loader import Loader
from kubebee.loader.pins import PinRoot
from kubebee.planner.build import Planned, Planner
from kubebee.planner.declared import Declared, Inputs, Node
from kubebee.planner.fill import balancer_status
from kubebee.planner.node_status import Outcome
from kubebee.planner.plan import LbUnit, ResourceKey
from kubebee.planner.report import Happening, NodeReport, UnitReport
from kubebee.planner.status import idle_status, refused_status, status_of
from kubebee.render.builtin import Datapaths
from kubebee.render.template_source import render_template
from kubebee.store.directory import DirectoryStore
from kubebee.store.events import EventLog
from kubebee.store.folder_services import FolderServices
from kubebee.store.snapshot import Snapshot, Store
from kubebee.store.state import ServicesRecord

log = logging.getLogger("kubebee")
CHECK_SECONDS = 2.0
TRIM_SECONDS = 3.0
"""After so long what followed from many new Services has been done, too."""
RETRY_SECONDS = (1.0, 2.0, 5.0)
SERVICES_SECONDS = 0.01
"""At least so long after a change of Services the next ones gather."""
SERVICES_NAMED = 20
"""Messages about Services of each kind that are shown."""


def now() -> str:
    """The time, RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise_now() -> str:
    """The time with microseconds, RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def host_view(
    cgroup_root: Path | None = None, tc: TcChoice = "auto", root: Path = Path("/")
) -> Callable[[], Host]:
    """A function that looks at this machine's interfaces anew each time; `root` is where its files are.

    Raises:
        UnsupportedError: the kernel lacks the way to attach TC programs that was chosen.
    """
    cgroup, mode, files = cgroup_root or find_cgroup2(), tc_mode(tc), HostFiles(root)

    def view() -> Host:
        present = {i.name: i.index for i in interfaces().values()}
        # Each is asked once for a moment, by however many units.
        return Host(present, cache(primary_interface), cgroup, mode, files, cache(losing_interfaces))

    return view


class Services(ServiceSource, Protocol):
    """Where Services come from, as the agent drives it."""

    @property
    def changed(self) -> asyncio.Event:
        """Set when there is news."""

    def want(self, wanted: bool, *, pods: bool = False) -> None:
        """Whether somebody wants them, and host ports of the node's pods with them."""

    def take(self, snapshot: Snapshot) -> None:
        """What the store has; some Services come with it."""

    async def run(self) -> None:
        """Follow them until cancelled."""


class Agent:
    """Makes the kernel match a store of resources until it is stopped.

    Attributes:
        on_report: called after each pass; `pass_seconds` then says how long it took.
        on_refusal: called once for each manifest or resource that can't be acted on.
    """

    def __init__(
        self,
        store: Store,
        loader: Loader,
        node: Node,
        services: Services,
    ) -> None:
        self.store = store
        self.loader = loader
        self.node = node
        self.services = services
        self.lb_services = loader.services = LbServices(services)
        self.planner = Planner(Datapaths())
        self.board = StatusBoard()
        self.events = EventLog(store.earlier_events(), now)
        self.node_board = NodeBoard()
        self._node_key = ResourceKey("BpfNode", node.name)
        self._outcomes: tuple[Outcome, ...] = ()
        self._generation = 0
        self._shape = Shape()
        self._synced = False  # as of the last pass
        self._services_unsaid = True
        self._services_written_at = float("-inf")
        self._disk_refuses = ""
        self.planned: Planned | None = None
        self.pass_seconds = 0.0
        self.on_report: Callable[[NodeReport], None] | None = None
        self.on_refusal: Callable[[KubebeeError], None] | None = None
        self._wake = asyncio.Event()
        loader.when_compiled(self._wake.set)
        loader.lb_checks.on_change = self._wake.set
        loader.lb_cut_over.on_change = self._wake.set
        loader.lb_links.on_change = self._wake.set
        self._stopping = False
        self._retries = 0
        self._retry_at: float | None = None
        self._look_again: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Run until `stop`.

        Raises:
            KubebeeError: the instance can't be taken, or the directory can't be read.
        """
        self.loader.start()
        watches = [
            asyncio.create_task(self._watch_store()),
            asyncio.create_task(self._watch_interfaces()),
            asyncio.create_task(self.loader.lb_upkeep.run()),
            asyncio.create_task(self.loader.lb_cutter.run()),
            asyncio.create_task(self.loader.lb_checks.run()),
            asyncio.create_task(self.loader.lb_answers.run()),
            asyncio.create_task(self.loader.lb_cut_over.run()),
            asyncio.create_task(self.services.run()),
            asyncio.create_task(self._watch_services()),
        ]
        tasks = list(watches)
        try:
            await asyncio.sleep(0)  # the watches listen before the first look: no edit falls between the two
            with collector_spared():
                self.store.scan()  # a folder that can't be read is an error now, later it may come back
                await self._try(self.reconcile())
            tasks.append(asyncio.create_task(self.loader.prewarm()))
            while not self._stopping:
                await self._wait(watches)
                woken = self._wake.is_set()
                self._wake.clear()
                if woken:
                    self._retries, self._retry_at = 0, None
                await self._try(self.reconcile() if woken else self._look_after())
        finally:
            if self._look_again is not None:
                self._look_again.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._flush(force=True)
            self.loader.stop()

    async def _try(self, work: Coroutine[object, object, object]) -> None:
        """Do a pass's work; what it did not come to is done at the next retry."""
        try:
            with collector_waiting():
                await work
        except KubebeeError as error:
            log.error("a pass failed and is tried again: %s", error)
        except Exception as error:
            log.exception("a pass failed and is tried again: %s", error)
        else:
            unsettled = any(not state.settled for state in self.loader.states.values())
            if not unsettled:
                self._retries, self._retry_at = 0, None
            elif self._retry_at is None:
                self._plan_retry()
            return
        self._plan_retry()

    def _plan_retry(self) -> None:
        wait = RETRY_SECONDS[min(self._retries, len(RETRY_SECONDS) - 1)]
        self._retries, self._retry_at = self._retries + 1, time.monotonic() + wait

    def stop(self) -> None:
        """End `run` after the pass at hand."""
        self._stopping = True
        self._wake.set()

    def rescan(self) -> None:
        """Make a pass now, whether or not anything is known to have changed."""
        self._wake.set()

    async def reconcile(self) -> NodeReport:
        """One pass: read, plan, apply, report."""
        start = time.perf_counter()
        snapshot = self.store.scan()
        self.services.take(snapshot)
        inputs = Inputs(snapshot.resources, snapshot.config_maps, self.node, render_template, self._shape)
        planned = self.planner.plan(inputs)
        reshaped = self._follow_services(planned.plan.lb)
        if reshaped:
            planned = self.planner.plan(replace(inputs, services=self._shape))
        self.planned = planned
        report = await self.loader.apply(planned.plan)
        if snapshot.look_again:
            loop = asyncio.get_running_loop()
            self._look_again = loop.call_later(snapshot.look_again, self._wake.set)
        if reshaped:
            gc.freeze()  # as after the first pass: what came in by thousands stays
            trim_memory()
            asyncio.get_running_loop().call_later(TRIM_SECONDS, trim_memory)
        self.pass_seconds = time.perf_counter() - start
        self._publish(snapshot, planned, report)
        return report

    async def _wait(self, watches: list[asyncio.Task[None]]) -> None:
        """Until something changed, a retry or a status write is due, or it is time to look after things."""
        unsaid = self.board.dirty or self.events.changed or self._services_unsaid
        timeout = STATUS_SECONDS if unsaid else CHECK_SECONDS
        if self._retry_at is not None:
            timeout = max(0.0, min(timeout, self._retry_at - time.monotonic()))
        waiter = asyncio.create_task(self._wake.wait())
        done, _ = await asyncio.wait([waiter, *watches], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        for watch in watches:
            if watch in done:
                watch.result()  # a watch ends only by an error

    async def _look_after(self) -> None:
        self._flush()
        if await self.node_board.look():
            self._publish_node()
        repaired = await self.loader.check()
        if repaired is not None:
            self._tell(repaired.happenings)
        fuller = self.loader.look_at_fill()
        retry = self._retry_at is not None and time.monotonic() >= self._retry_at
        if retry:
            self._retry_at = None
        if repaired is not None or retry or fuller or self.store.stale():
            await self.reconcile()

    async def _watch_store(self) -> None:
        async for _ in self.store.changes():
            self._wake.set()

    # -- Services --------------------------------------------------------------------------------------------

    def _follow_services(self, lb: LbUnit | None) -> bool:
        """Have Services followed if somebody wants them; whether they need another datapath than planned."""
        wanted = lb.services if lb is not None else None
        self.services.want(wanted is not None, pods=wanted is not None and wanted.host_ports)
        table = self.services.table
        self._synced = table.synced
        self._services_unsaid = True
        table.want(wanted or ServicesWanted(()))
        if wanted is None:
            table.refresh()  # to nothing: else all that was served would stay in memory
            return False
        if not table.synced:
            return False
        table.refresh()
        return self._reshaped()

    def _services_record(self) -> ServicesRecord | None:
        if not self.services.wanted:
            return None
        counts = self.services.table.counts
        left_out, warnings = self.lb_services.left_out(), self.lb_services.warnings()
        return ServicesRecord(
            synced=self.services.table.synced,
            services=counts.services,
            endpoints=counts.endpoints,
            frontends=counts.frontends,
            host_ports=counts.host_ports,
            left_out_count=len(left_out),
            left_out=left_out[:SERVICES_NAMED],
            warnings_count=len(warnings),
            warnings=warnings[:SERVICES_NAMED],
        )

    def _reshaped(self) -> bool:
        before, self._shape = self._shape, self._shape.covering(self.services.table.shape)
        return self._shape != before

    async def _watch_services(self) -> None:
        """Bring changes to the maps as they come; many at once are one change."""
        while True:
            await self.services.changed.wait()
            self.services.changed.clear()
            began = time.monotonic()
            with collector_waiting():
                self._serve_services()
            # At most half of the time is spent here, however many changes there are.
            await asyncio.sleep(max(SERVICES_SECONDS, time.monotonic() - began))

    def _serve_services(self) -> None:
        """Write what changed, or make a pass where that is not enough."""
        table = self.services.table
        if not table.synced or not self._synced:
            self._wake.set()
            return
        table.refresh()
        if self._reshaped():
            self._wake.set()
            return
        try:
            done = self.loader.write_services()
        except (KubebeeError, OSError) as error:
            log.warning("changes of Services are written with the next pass: %s", error)
            done = False
        self._tell(self.loader.take_happenings())
        self._services_unsaid = True
        if not done:
            self._wake.set()

    async def _watch_interfaces(self) -> None:
        loop = asyncio.get_running_loop()
        with LinkWatcher() as watcher:
            changed = asyncio.Event()
            loop.add_reader(watcher.fileno(), changed.set)
            known = {(i.name, i.index) for i in interfaces().values()}
            try:
                while True:
                    await changed.wait()
                    changed.clear()
                    watcher.read()
                    current = {(i.name, i.index) for i in interfaces().values()}
                    if current != known:
                        known = current
                        self._wake.set()
            finally:
                loop.remove_reader(watcher.fileno())

    # -- what the user sees ----------------------------------------------------------------------------------

    def _publish(self, snapshot: Snapshot, planned: Planned, report: NodeReport) -> None:
        self._tell(report.happenings)
        units = unit_keys(planned)
        named = {r.key: r for r in snapshot.rejected if r.key is not None}
        for declared in snapshot.resources:
            unit = report.of(declared.key, units.get(declared.key, declared.key))
            if declared.key in named:
                continue
            self._set_status(declared, planned, unit)
        for key, rejected in named.items():
            unit = report.of(key, units.get(key, key))
            self._refuse(key, rejected.generation, rejected.error, unit)
        for rejected in snapshot.rejected:
            if rejected.key is None:
                self._tell_once(ResourceKey("Manifest", rejected.error.where), rejected.error)
        self._outcomes = tuple(outcomes(snapshot, planned, report))
        self._generation = snapshot.generation
        self._publish_node()
        self._forget_gone({self._node_key} | {d.key for d in snapshot.resources} | set(named))
        self._flush()
        if self.on_report is not None:
            self.on_report(report)

    def _publish_node(self) -> None:
        status = self.node_board.update(self._outcomes, now())
        self.board.set(self._node_key, self._generation, status)

    def _set_status(self, declared: Declared, planned: Planned, unit: UnitReport | None) -> None:
        key, previous = declared.key, self._previous(declared.key)
        if key in planned.refused:
            self._refuse(key, declared.generation, planned.refused[key], unit)
        elif key in planned.idle:
            status = idle_status(declared.generation, planned.idle[key], previous, now())
            self._show(key, declared.generation, status)
        else:
            warnings = planned.warnings.get(key, ())
            reports = [(self.node.name, unit)]
            status = status_of(declared.generation, reports, previous, now(), warnings)
            self._show(key, declared.generation, status, unit)

    def _refuse(
        self, key: ResourceKey, generation: int, error: KubebeeError, unit: UnitReport | None
    ) -> None:
        reports = [(self.node.name, unit)] if unit else []
        status = refused_status(generation, error, self._previous(key), now(), reports)
        self._show(key, generation, status, unit)
        self._tell_once(key, error)

    def _show(
        self, key: ResourceKey, generation: int, status: CommonStatus, unit: UnitReport | None = None
    ) -> None:
        if key.kind == "ServiceLB":
            status = balancer_status(status, [(self.node.name, unit.fill)] if unit else ())
        self.board.set(key, generation, status)

    def _previous(self, key: ResourceKey) -> CommonStatus | None:
        known = self.board.current.get(key)
        return known[1] if known else None

    def _tell_once(self, key: ResourceKey, error: KubebeeError) -> None:
        message = str(error)
        if not any(
            (e.kind, e.name, e.message) == (key.kind, key.name, message) for e in self.events.records[-50:]
        ):
            self._tell((Happening(key, True, error.reason, message),))
            if self.on_refusal is not None:
                self.on_refusal(error)

    def _tell(self, happenings: tuple[Happening, ...]) -> None:
        self.events.add(happenings)
        for happening in happenings:
            level = logging.WARNING if happening.warning else logging.INFO
            log.log(
                level, happening.message, extra={"resource": str(happening.key), "reason": happening.reason}
            )

    def _forget_gone(self, present: set[ResourceKey]) -> None:
        for key in [key for key in self.board.current if key not in present]:
            del self.board.current[key]
            self.board.dirty.discard(key)
            self.board.written_at.pop(key, None)

    def _flush(self, *, force: bool = False) -> None:
        """Write statuses and events that are due.

        A full disk keeps none of them from the others: in a cluster only the plan is on the disk. It is said
        once and tried again.
        """
        clock, refused = time.monotonic(), dict[str, None]()

        def statuses() -> None:
            for key in list(self.board.dirty) if force else self.board.due(clock):
                generation, status = self.board.current[key]
                self.store.publish(key, status_document(key, generation, status))
                self.board.written_at[key] = clock
                self.board.dirty.discard(key)

        def services() -> None:
            if self._services_unsaid and (force or clock - self._services_written_at >= STATUS_SECONDS):
                self.store.publish_services(self._services_record())
                self._services_unsaid, self._services_written_at = False, clock

        def events() -> None:
            if self.events.changed:
                self.store.publish_events(self.events.records)
                self.events.changed = False

        for write in (self.store.save, statuses, services, events):
            try:
                write()
            except OSError as error:
                refused[error.strerror or str(error)] = None
        said = ", ".join(refused)
        if said and said != self._disk_refuses:
            log.warning("the disk can't be written: %s", said)
        self._disk_refuses = said


def make_agent(
    directory: Path,
    bpffs: Path,
    cache: Path,
    node: Node,
    cgroup_root: Path | None = None,
    tc: TcChoice = "auto",
) -> Agent:
    """Wire up an agent; nothing is touched before `run`."""
    loader = Loader(PinRoot(bpffs), cache, node.name, host_view(cgroup_root, tc))
    services = FolderServices(ServiceTable(NodeFacts(node.name)), own_addresses)
    return Agent(DirectoryStore(directory, precise_now), loader, node, services)

"""What the load balancer needs between changes of its resources: next hops, and the end of flows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from kubebee.bpf.map import Map
from kubebee.bpf.neighbours import our_neighbours, stop_keeping
from kubebee.errors import KubebeeError
from kubebee.lb import devices
from kubebee.lb.drain import Drains
from kubebee.lb.family import IPV6, Family
from kubebee.lb.gc import GcReport, collect
from kubebee.lb.layout import NextHop
from kubebee.lb.model import FrontendKey
from kubebee.lb.sync import LbState
from kubebee.loader.neighbours import Neighbours
from kubebee.loader.own_places import served_here
from kubebee.loader.ways import Ways, known_devices

log = logging.getLogger("kubebee")
GC_SECONDS = 5.0
GC_SHARE = 20
"""A collection may take one part in so many of the time."""
RETRY_SECONDS = 0.2
PAUSE_SECONDS = 0.02
"""Bounds how often a network that changes all the time is looked at."""


class LbUpkeep:
    """Follows the network on behalf of the maps that it was last given.

    Attributes:
        collected: what the last collection of flows saw, None before the first.
        on_hops: told of next hops that were written.
        expired, orphans, drained, freed: sums over all collections, for metrics.
    """

    def __init__(self) -> None:
        self.collected: GcReport | None = None
        self.on_hops: Callable[[Mapping[bytes, NextHop | None]], None] = lambda _: None
        self.expired = self.orphans = self.drained = self.freed = 0
        self._drains: defaultdict[Family, Drains] = defaultdict(Drains)
        self._drain_seconds: Mapping[FrontendKey, int] = {}
        self._maps: Mapping[str, Map] = {}
        self._state: LbState | None = None
        self._served: frozenset[int] = frozenset()
        self._given: frozenset[Family] = frozenset()
        self._followed: LbState | None = None
        self._neighbours: Neighbours | None = None
        self._resting = False
        self._wake = asyncio.Event()

    def prepare(
        self,
        maps: Mapping[str, Map],
        state: LbState,
        served: frozenset[int],
        given: frozenset[Family] = frozenset(),
    ) -> None:
        """Know the network around these maps; call it before they are written to, and then `follow`.

        Args:
            maps: the load balancer's.
            state: what they have.
            served: interfaces where packets that come in are balanced.
            given: families whose SNAT address somebody chose: that of the interface is of no account.

        Raises:
            BpfError: netlink failed, or a map refused a write.
        """
        if state is not self._state:
            self.rest()
        self._resting = False
        self._maps, self._state, self._served, self._given = maps, state, served, given
        ways = self._look()
        if self._neighbours is None:
            self._neighbours = Neighbours(self, ipv6=IPV6 in state.families, ways=ways)
            self._wake.set()
        self._neighbours.use(ways)

    def follow(
        self, maps: Mapping[str, Map], state: LbState, drain_seconds: Mapping[FrontendKey, int] | None = None
    ) -> None:
        """Keep the next hops of all backends in `maps` right from now on; call it after each write to them.

        Addresses that no backend has any more are followed until a collection frees the last of them.

        Args:
            maps: the load balancer's.
            state: what they have.
            drain_seconds: how long backends that left a frontend keep their flows, where that is limited.

        Raises:
            BpfError: netlink failed, or a map refused a write.
        """
        if state is not self._state:
            self.prepare(maps, state, self._served, self._given)
        assert self._neighbours is not None
        self._drain_seconds = drain_seconds or {}
        self._note_drains(state)
        if self._followed is not state:
            self._neighbours.want(state.addresses())
        elif arrived := state.take_arrived():
            self._neighbours.want_also(arrived)
        elif not self._neighbours.stale:
            return
        self._followed = None  # if what follows fails, everything is wanted anew
        self._neighbours.work()
        self._followed = state
        self._wake.set()

    def ahead(self, addresses: set[bytes]) -> None:
        """Find the way to backends that are about to be written: new flows must not take another at first.

        Raises:
            BpfError: netlink failed.
        """
        if self._neighbours is not None:
            self._neighbours.want_also(addresses)
            self._neighbours.work()

    def _look(self) -> Ways:
        """What interfaces can do now; the datapath is told."""
        ways = Ways.now(self._served)
        if devices.MAP in self._maps:
            devices.write(self._maps[devices.MAP], known_devices(ways, self._given))
        return ways

    def rest(self) -> None:
        """There is no load balancer: let its neighbours go, those of an earlier run too, and don't listen."""
        if self._resting:
            return
        self._resting = True
        self.stop()
        try:
            stop_keeping(list(our_neighbours()))
        except KubebeeError as error:  # they stay resolved, and a later run gives them up
            log.warning("load balancer's upkeep: %s", error)

    def stop(self) -> None:
        """This process ends, and the datapath goes on with what it has."""
        if self._neighbours is not None:
            self._neighbours.close()
        self._neighbours, self._state, self._followed, self._maps = None, None, None, {}
        self.collected = None
        self._wake.set()

    def next_hop(self, address: bytes) -> NextHop | None:
        """What is written for an address."""
        return self._state.next_hop(address) if self._state else None

    def set_next_hops(self, hops: Mapping[bytes, NextHop | None]) -> None:
        """Write hops."""
        if self._state is not None:
            self._state.set_next_hops(self._maps, hops)
            self.on_hops(hops)

    def forget_next_hops(self, addresses: Iterable[bytes]) -> None:
        """Drop what is known of addresses that no backend has any more."""
        if self._state is not None:
            self._state.forget_next_hops(addresses)

    def _note_drains(self, state: LbState) -> dict[Family, frozenset[int]]:
        """Backends that have drained for long enough; those that have just left begin to."""
        now, over = time.monotonic(), {}
        for family, part in state.families.items():
            self._drains[family].follow(part, self._drain_seconds, now)
            over[family] = self._drains[family].over(now)
        return over

    def _look_for_own_places(self) -> None:
        """Which frontends the node is a server of itself; the datapath is told."""
        assert self._state is not None
        for part in self._state.families.values():
            if part.family.own in self._maps:
                part.own.want(self._maps, served_here(part.places_here()))

    async def run(self) -> None:
        """Follow the network and collect flows until cancelled; what fails is logged and tried again."""
        due = 0.0
        while True:
            self._wake.clear()
            with self._listening():
                await self._pause(due)
            if self._neighbours is None:
                continue
            try:
                routed_anew = self._neighbours.take_news()
                if self._neighbours.stale or self._neighbours.unkept:
                    self._neighbours.work()
                if routed_anew:
                    self._look_for_own_places()
                if time.monotonic() >= due:
                    due = self._collect()
            except (KubebeeError, OSError) as error:
                log.warning("load balancer's upkeep: %s", error)
                self._neighbours.doubt()
                due = time.monotonic() + GC_SECONDS
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(0 if self._neighbours and self._neighbours.stale else PAUSE_SECONDS)

    async def _pause(self, due: float) -> None:
        """Until there is news, or something is due; without a load balancer until there is one."""
        neighbours = self._neighbours
        if neighbours is None:
            await self._wake.wait()
        elif not neighbours.stale:
            wait = max(0.0, due - time.monotonic())
            if neighbours.undecided:
                wait = min(wait, RETRY_SECONDS)
            # Not wait_for: before Python 3.12 it may swallow a cancellation, and then nothing ends this task.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        if self._neighbours is None:
            yield
            return
        loop, descriptor = asyncio.get_running_loop(), self._neighbours.events.fileno()
        loop.add_reader(descriptor, self._wake.set)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)

    def _collect(self) -> float:
        """Remove flows that are over; returns when to do it again, on the monotonic clock."""
        assert self._state is not None
        assert self._neighbours is not None
        start = time.monotonic()
        self._neighbours.use(self._look())  # drivers tell nobody what they have learnt
        self._look_for_own_places()
        drained = self._note_drains(self._state)
        now = time.monotonic_ns()
        self.collected = report = collect(self._maps, self._state, now, drained=drained)
        self.drained += report.drained
        self.expired += report.expired
        self.orphans += report.orphans
        self.freed += report.backends_freed
        if report.backends_freed:
            self._neighbours.want(self._state.addresses())
        end = time.monotonic()
        return end + max(GC_SECONDS, GC_SHARE * (end - start))

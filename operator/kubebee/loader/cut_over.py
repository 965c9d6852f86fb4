"""Takes a node over from a kube-proxy that runs, removes its rules once it is gone, and hands back to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from kubebee.bpf import conntrack
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError
from kubebee.lb import cut_over, hand_back
from kubebee.lb.cut_over import Phase
from kubebee.lb.family import FAMILIES, IPV4, Family
from kubebee.lb.grace import wait_for_readers
from kubebee.lb.model import FrontendKey
from kubebee.lb.sync import LbState
from kubebee.loader.kube_proxy import (
    end_translating,
    remove_rules,
    rules_here,
    rules_left,
    runs_here,
    uses_ipvs,
)

log = logging.getLogger("kubebee")
LOOK_SECONDS = 5.0
SHARE = 20
"""A look at conntrack may take one part in so many of the time."""
AT_ONCE = 1024
"""Connections given to the kernel before anything else has its turn."""
GONE_AFTER = 3
"""Looks without a kube-proxy that was handed back to: one that is only restarted is there again by then."""


class LbCutOver:
    """Follows the maps that it was last given.

    Attributes:
        left: connections that kube-proxy began and that go on.
        on_change: called when there is something to say between two passes.

    Args:
        holds: whether a port is one that this process listens on.
        tell: called with a text and its reason.
    """

    def __init__(self, holds: Callable[[int], bool], tell: Callable[[str, str], None]) -> None:
        self.left = 0
        self.on_change: Callable[[], None] = lambda: None
        self._holds = holds
        self._tell = tell
        self._kept = 0  # connections that are not handed back yet
        self._hand_back = False
        self._missed = 0
        self._maps: Mapping[str, Map] = {}
        self._state: LbState | None = None
        self._runs = False
        self._rules_left = ""
        self._removed = False
        self._resting = False
        self._wake = asyncio.Event()

    @property
    def handed_back(self) -> bool:
        """Whether new connections are kube-proxy's again."""
        return cut_over.phase_of(self._maps) is Phase.HANDS_BACK

    def follow(self, maps: Mapping[str, Map], state: LbState, *, hand_back: bool = False) -> None:
        """Take over by these maps, which are attached and filled; new connections are ours afterwards.

        Args:
            maps: the load balancer's.
            state: what they have.
            hand_back: once kube-proxy runs, and has rules, they are its.

        Raises:
            KubebeeError: conntrack can't be read, or kube-proxy uses IPVS; it goes on serving.
        """
        self._maps, self._state, self._resting, self._hand_back = maps, state, False, hand_back
        phase = cut_over.phase_of(maps)
        if phase is Phase.HANDS_BACK and not hand_back:
            self._serve()
        if phase is Phase.RECORDS:
            self._runs = runs_here(self._holds)
            if uses_ipvs():
                raise KubebeeError(
                    "kube-proxy uses IPVS on this node, whose connections are not in conntrack",
                    reason="Unsupported",
                    where="spec.cutOver",
                    hint="switch kube-proxy to the mode nftables or iptables first, or leave cutOver out",
                )
            self._serve()
        if self._at_work:
            self._wake.set()

    @property
    def _at_work(self) -> bool:
        """Whether there is something to look after."""
        phase = cut_over.phase_of(self._maps)
        return phase in (Phase.SERVES, Phase.HANDS_BACK) or (phase is Phase.OVER and self._hand_back)

    def rest(self) -> None:
        """There is nothing to take over; what an earlier process left for that goes."""
        if self._resting:
            return
        self._resting = True
        self._maps, self._state, self.left = {}, None, 0
        self._rules_left, self._removed = "", False
        self._hand_back, self._kept, self._missed = False, 0, 0
        try:
            end_translating()
        except KubebeeError as error:
            log.warning("cut-over from kube-proxy: %s", error)

    def notes(self) -> Iterator[str]:
        """What a status says of it."""
        phase = cut_over.phase_of(self._maps)
        if phase is Phase.SERVES:
            who = "kube-proxy runs here" if self._runs else "kube-proxy is gone from here"
            yield f"cut-over: new connections are served; {self.left} go on by kube-proxy's; {who}"
        if phase is Phase.HANDS_BACK:
            yield f"handed back: new connections are kube-proxy's, {self._kept} older ones still go on here"
        elif self._hand_back:
            yield "cutOver.handBack: waits for a kube-proxy (nftables or iptables) and its rules"
        if self._rules_left:
            yield self._rules_left

    async def run(self) -> None:
        """Look after it until cancelled; what fails is logged and tried again."""
        while True:
            if not self._at_work:
                self._wake.clear()
                await self._wake.wait()
            began = time.monotonic()
            try:
                await self._look()
            except (KubebeeError, OSError) as error:
                log.warning("cut-over from kube-proxy: %s", error)
            await asyncio.sleep(max(LOOK_SECONDS, SHARE * (time.monotonic() - began)))

    def _serve(self) -> None:
        """From here on new connections are ours, and those of kube-proxy are known."""
        assert self._state is not None
        wait_for_readers()  # a packet that met no program of ours is in conntrack afterwards
        self.left = 0
        for family in self._families():
            wanted, count = _their_flows(family, self._state.families[family].served)
            cut_over.note(self._maps[cut_over.theirs_map(family)], wanted)
            self.left += count
        cut_over.enter(self._maps, Phase.SERVES)
        self._tell(f"new connections are served; {self.left} go on by kube-proxy's", "CutOver")

    async def _look(self) -> None:
        """Forget connections that ended; see what kube-proxy does, and do what follows from that."""
        maps = self._maps
        if cut_over.phase_of(maps) is not Phase.OVER and not await self._forget_ended():
            return
        ran, self._runs = self._runs, runs_here(self._holds)
        if ran != self._runs:
            self.on_change()
        if self._hand_back:
            await self._look_at_hand_back()
            return
        if self._runs:
            self._removed = False
            return
        await self._remove_rules()
        if not self.left and not self._rules_left:
            end_translating()
            cut_over.enter(maps, Phase.OVER)
            self._tell("none of kube-proxy's connections and rules are left", "CutOver")
            self.on_change()

    async def _look_at_hand_back(self) -> None:
        """Leave new connections to a kube-proxy that serves, and take them again from one that is gone."""
        maps = self._maps
        serves = self._runs and not uses_ipvs() and await asyncio.to_thread(rules_here)
        if maps is not self._maps or not self._hand_back:
            return
        if not self.handed_back:
            if serves:
                self._missed = 0
                cut_over.enter(maps, Phase.HANDS_BACK)
                self.on_change()  # the ports of kube-proxy are let go of
                await self._give_ours()
                self._tell("kube-proxy serves again", "HandedBack")
                self.on_change()
            return
        self._missed = 0 if serves else self._missed + 1
        if self._missed >= GONE_AFTER:
            self._serve()
            self.on_change()
        elif serves:
            await self._give_ours()

    def _hands_back(self, maps: Mapping[str, Map]) -> bool:
        """Whether these maps still count, and are still to be emptied."""
        return maps is self._maps and self.handed_back

    async def _give_ours(self) -> None:
        """Let the kernel translate what is translated here; what it refuses is tried again next time."""
        maps, kept = self._maps, 0
        await asyncio.to_thread(wait_for_readers)  # flows that were begun before are in the maps afterwards
        for family in self._families():
            flows = maps[family.flows]
            if any(True for _ in flows.keys()):  # noqa: SIM118 (a map of the kernel)
                known = await asyncio.to_thread(hand_back.known_to_conntrack, family)
                if not self._hands_back(maps):
                    return
                found = list(hand_back.ours(maps, family))
                for start in range(0, len(found), AT_ONCE):
                    hand_back.give(maps, family, found[start : start + AT_ONCE], known)
                    await asyncio.sleep(0)
                    if not self._hands_back(maps):
                        return
                kept += sum(1 for _ in flows.keys())  # noqa: SIM118
        before, self._kept = self._kept, kept
        if (before == 0) != (kept == 0):
            self.on_change()

    async def _forget_ended(self) -> bool:
        """Forget connections of kube-proxy's that ended; False: other maps count meanwhile."""
        maps, state, left = self._maps, self._state, 0
        assert state is not None
        for family in self._families():
            theirs = maps[cut_over.theirs_map(family)]
            before = dict(theirs.items())
            served = frozenset(state.families[family].served)
            wanted, count = await asyncio.to_thread(_their_flows, family, served)
            if maps is not self._maps:
                return False
            cut_over.forget_others(theirs, before, wanted)
            left += count
        self.left = left
        return True

    async def _remove_rules(self) -> None:
        """Only once: rules that come back have somebody who wants them."""
        if self._removed:
            return
        removed = await asyncio.to_thread(remove_rules)
        self._rules_left = await asyncio.to_thread(rules_left)
        self._removed = not self._rules_left
        if removed:
            self._tell(f"removed: {removed}", "KubeProxyRulesRemoved")
            self.on_change()

    def _families(self) -> list[Family]:
        return [family for family in FAMILIES if family is IPV4 or cut_over.theirs_map(family) in self._maps]


def _their_flows(family: Family, served: Collection[FrontendKey]) -> tuple[dict[bytes, bytes], int]:
    return cut_over.their_flows(conntrack.translated(family.number), served)

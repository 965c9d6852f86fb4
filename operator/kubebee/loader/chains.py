"""The XDP half of a pass: which chain each interface shall run, and exchanging what runs for it.

A stage that makes its chain fail is taken back to the version before it, or left out: it never keeps the
others from running.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from kubebee.errors import KubebeeError
from kubebee.loader.chain import Chain
from kubebee.loader.chain import Stage as ChainStage
from kubebee.loader.failures import describe
from kubebee.loader.interfaces import XdpInterfaces
from kubebee.loader.loaded import Loaded
from kubebee.loader.placing import Wanted, place
from kubebee.loader.state import Pass, UnitState
from kubebee.loader.unit import Rank
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Failure, Stage
from kubebee.toolchain.errors import CompileError


class Chains:
    """Brings chains to interfaces.

    Args:
        xdp: what runs where.
        states: what is known of each unit.
        fail: is told of units that fail, with the failure before.
        last_good: gives the version of a unit that ran before a broken edit.
    """

    def __init__(
        self,
        xdp: XdpInterfaces,
        states: Mapping[ResourceKey, UnitState],
        fail: Callable[[ResourceKey, Failure, Failure | None], None],
        last_good: Callable[[ResourceKey], Awaitable[Loaded | None]],
    ) -> None:
        self._xdp = xdp
        self._states = states
        self._fail = fail
        self._last_good = last_good

    async def attach(self, run: Pass) -> None:
        """Let every interface run its chain, and those without one nothing of ours."""
        chains = await self.loadable(run)
        self._xdp.follow_names(run.host.interfaces)
        leaving = {
            name: self._xdp.leaving(name, chains[name].chain if name in chains else None)
            & run.versions.keys()
            for name in {*chains, *self._xdp.active}
        }
        failed: set[ResourceKey] = set()
        # Where a stage leaves comes last: one that fails where it shall be now stays where it is.
        for interface in sorted(leaving, key=lambda name: (bool(leaving[name]), name)):
            wanted = chains.get(interface)
            if leaving[interface] & failed:
                self._leave_as_it_is(interface, wanted)
            elif wanted is None:
                self._xdp.detach(interface)
            else:
                failed |= await self._attach_chain(interface, wanted)
        self._xdp.drop_unused()
        for state in self._states.values():
            state.replaced = {name: why for name, why in state.replaced.items() if name in chains}

    def _leaving(self, interface: str, wanted: Wanted | None, run: Pass) -> set[ResourceKey]:
        """Units with a stage that goes from here and shall run elsewhere."""
        return self._xdp.leaving(interface, wanted.chain if wanted else None) & run.versions.keys()

    async def _attach_chain(self, interface: str, wanted: Wanted) -> set[ResourceKey]:
        """Attach; returns the units that failed by it."""
        try:
            program = await self._xdp.program(wanted.chain)
            self._xdp.attach(interface, wanted.ifindex, wanted.mode, wanted.chain, program)
        except (KubebeeError, OSError) as error:
            failure = describe(error, Stage.ATTACH)
            for stage in wanted.chain.stages:
                if stage.optional:
                    self._states[stage.key].replaced[interface] = failure.message
            keys = {stage.key for stage in wanted.chain.stages if not stage.optional}
            for key in keys:
                self._fail(key, failure, self._states[key].failure)
            return keys
        for stage in wanted.chain.stages:
            self._states[stage.key].replaced.pop(interface, None)
        return set()

    def _leave_as_it_is(self, interface: str, wanted: Wanted | None) -> None:
        """Let a chain go on; those that shall run there in a newer version wait."""
        running = {stage.identity for stage in self._xdp.active[interface].chain.stages}
        for stage in wanted.chain.stages if wanted is not None else ():
            self._states[stage.key].waits |= stage.identity not in running

    async def loadable(self, run: Pass) -> dict[str, Wanted]:
        """The chain of each interface; a stage that makes its chain fail is taken back or left out."""
        while True:
            chains = self._placed(run)
            for wanted in chains.values():
                try:
                    await self._xdp.program(wanted.chain)
                except CompileError:
                    raise  # of what joins the stages: none is to blame, and the whole pass is tried again
                except KubebeeError as error:
                    await self._leave_out(wanted.chain, error, run)
                    break
            else:
                return chains

    def _placed(self, run: Pass) -> dict[str, Wanted]:
        """What every interface shall run, with what keeps stages from it said."""
        placing = place(run.versions, run.host)
        for key, missing in placing.missing.items():
            self._states[key].no_interface = missing
        for key, error in placing.refused:
            self._fail(key, describe(error, Stage.ATTACH), self._states[key].failure)
        waiting = {chain.ifindex for chain in run.undecided}
        for wanted in placing.chains.values():
            for stage in wanted.chain.stages if wanted.ifindex in waiting else ():
                self._states[stage.key].waits = True
        return {name: wanted for name, wanted in placing.chains.items() if wanted.ifindex not in waiting}

    async def _leave_out(self, chain: Chain, error: KubebeeError, run: Pass) -> None:
        """Find the stage to blame for a chain that doesn't load; put its old version in its place."""
        culprit, why = await self._culprit(chain, error, run)
        failed = run.versions.pop(culprit.key)
        failure = describe(why, Stage.VERIFY, failed.unit, culprit.function)
        self._fail(culprit.key, failure, self._states[culprit.key].failure)
        run.fresh.discard(culprit.key)
        active = self._states[culprit.key].active
        if active is None:
            active = await self._last_good(culprit.key)
        if active is not None and active.load_hash != failed.load_hash:
            run.versions[culprit.key] = active
        if failed is not active:
            failed.close()

    async def _culprit(self, chain: Chain, error: KubebeeError, run: Pass) -> tuple[ChainStage, KubebeeError]:
        suspects = sorted(chain.stages, key=lambda s: (s.rank != Rank.USER, s.key not in run.fresh))
        if len(suspects) == 1:
            return suspects[0], error
        for stage in suspects:
            if stage.program is not None:
                return stage, error
            try:
                await self._xdp.program(Chain.of([stage]))
            except KubebeeError as alone:
                return stage, alone
        fresh = [s for s in suspects if s.rank == Rank.USER and s.key in run.fresh]
        users = [s for s in chain.stages if s.rank == Rank.USER]
        return (fresh or users or list(chain.stages))[-1], error

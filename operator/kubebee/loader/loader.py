"""The node agent: makes the kernel match a plan, and says what it did.

Order of a pass: compile, load and verify whatever changed; only then touch what is attached. A unit whose
new version fails keeps its old one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf.addresses import own_addresses
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError
from kubebee.lb.fill import Fill
from kubebee.lb.health.answers import Condition
from kubebee.lb.health.writes import Writes
from kubebee.lb.model import Frontend, FrontendKey
from kubebee.lb.sync import Unserved
from kubebee.loader.chains import Chains
from kubebee.loader.compiled import Compiler
from kubebee.loader.cut_over import LbCutOver
from kubebee.loader.cutter import Cutter
from kubebee.loader.data import LbData, PolicyData, host_addresses, snat_given, with_own_sources
from kubebee.loader.failures import describe
from kubebee.loader.host import Host, TargetError
from kubebee.loader.interfaces import XdpInterfaces
from kubebee.loader.last_good import LastGood
from kubebee.loader.lb_answers import LbAnswers
from kubebee.loader.lb_checks import LbChecks
from kubebee.loader.lb_fill import LbFill
from kubebee.loader.lb_links import LbLinks
from kubebee.loader.lb_services import LbServices
from kubebee.loader.lb_taken import explicit_owner, without_taken
from kubebee.loader.links import Links
from kubebee.loader.loaded import adoptable
from kubebee.loader.pins import PinError, PinRoot, unit_directory
from kubebee.loader.prewarm import prewarm
from kubebee.loader.state import Pass, UnitState
from kubebee.loader.succession import successors
from kubebee.loader.undecided import undecided_chains
from kubebee.loader.unit import Unit, resources_of, units_of
from kubebee.loader.unit_report import attachments, unit_report
from kubebee.loader.upkeep import LbUpkeep
from kubebee.loader.versions import Versions
from kubebee.planner.plan import LbUnit, NodePlan, PolicyUnit, ResourceKey
from kubebee.planner.report import Failure, Happening, NodeReport, Stage


@dataclass(frozen=True, slots=True)
class _Places:
    """What decides where units are attached, apart from the units themselves."""

    interfaces: dict[str, int]
    primary: str | None


class Loader:
    """All BPF of one instance.

    Args:
        pins: where this instance pins.
        cache: directory of compiled objects and last good versions.
        node: name of this node, for reports.
        host: gives a view of the node as it is now.
    """

    def __init__(self, pins: PinRoot, cache: Path, node: str, host: Callable[[], Host]) -> None:
        self._pins = pins
        self._node = node
        self._host = host
        self._compiler = Compiler(cache, lambda key, item: adoptable(key, item, pins), host().files)
        self._last_good = LastGood(cache / "running")
        self._lock: int | None = None
        self.links = Links(pins)
        self.xdp = XdpInterfaces(pins, self._compiler)
        self.lb = LbData()
        self.lb_upkeep = LbUpkeep()
        self.lb_cutter = Cutter(self._compiler, self._tell_uncut)
        self.lb_checks = LbChecks()
        self.lb_fill = LbFill()
        self.lb_links = LbLinks()
        self.lb_upkeep.on_hops = self.lb_links.take
        self.lb_answers = LbAnswers(self.lb_condition)
        self.lb_cut_over = LbCutOver(self.lb_answers.holds, self._tell_cut_over)
        self.policies: dict[ResourceKey, PolicyData] = {}
        self.states: dict[ResourceKey, UnitState] = {}
        self._versions = Versions(pins, self._compiler, self._last_good, self.states, self._fail)
        self._chains = Chains(self.xdp, self.states, self._fail, self._versions.last_good)
        self._happenings: list[Happening] = []
        self._plan = NodePlan()
        self._resources: Mapping[ResourceKey, Sequence[ResourceKey]] = {}
        self._policies_before: Sequence[PolicyUnit] = ()
        self._local: frozenset[bytes] = frozenset()
        self._balanced: frozenset[int] = frozenset()
        self.services: LbServices | None = None
        self._lb_writes = Writes()
        self._source_notes: tuple[str, ...] = ()
        self._served: LbUnit | None = None  # the plan's load balancer with the frontends of Services
        self._places: _Places | None = None
        self._untidy = True  # an earlier process may have left something

    def start(self) -> None:
        """Take the instance.

        Raises:
            PinError: no bpf file system, or another process has the instance.
        """
        self._pins.prepare()
        self._lock = self._pins.lock()

    def when_compiled(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when something is compiled that `apply` did not wait for: apply again then."""
        self._compiler.on_late = wake

    async def prewarm(self) -> None:
        """Compile ahead what the next edits are likely to need."""
        await prewarm(self._compiler)

    def stop(self) -> None:
        """Let go of the instance; everything pinned goes on running."""
        self._compiler.stop()
        self.lb_upkeep.stop()
        self.lb_cutter.rest()
        for state in self.states.values():
            if state.active is not None:
                state.active.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def apply(self, plan: NodePlan) -> NodeReport:
        """Make the kernel match `plan`; a failure of one unit disturbs no other."""
        self._plan = plan
        leaving = {key: them for key, them in self._resources.items() if key in self.states}
        self._resources = {**leaving, **resources_of(plan)}
        try:
            self._take_back_bpffs()
        except PinError as error:
            for key, state in self.states.items():
                self._fail(key, describe(error, Stage.ATTACH), state.failure)
            return self.report()
        units = self._units(plan)
        host = self._host()
        places = _Places(dict(host.interfaces), host.primary())
        moved = places != self._places  # nothing of an unchanged unit can have another place otherwise
        self._places = places
        removed = [key for key in self.states if key not in units]
        run = Pass(host)
        await self._versions.prepare(units, run, moved=moved)
        run.undecided = undecided_chains(self._pins, self._versions.undecided(run))
        self._write_data(plan, run)
        await self._chains.loadable(run)  # what the verifier refuses is known before anything is attached
        for key in sorted(units, key=str):
            if key in run.versions and (key in run.fresh or moved or not self.states[key].settled):
                self._attach_rest(key, run)
        for key, why in self.links.reorder():
            self._fail(key, describe(why, Stage.ATTACH), self.states[key].failure)
        await self._chains.attach(run)
        for key in removed:
            self._remove(key)
        if not any(key.kind == "ServiceLB" for key in self.states):
            self.lb_upkeep.rest()
            self.lb_cutter.rest()
            self.lb_checks.rest()
            self.lb_cut_over.rest()
            self.lb_fill.rest()
        self._settle(run)
        self._take_over()
        self.look_at_fill()
        self._untidy |= bool(run.prepared or removed or moved or run.undecided)
        if self._untidy:  # it takes longer than all else of a pass that changes nothing
            self._collect_garbage(frozenset().union(*(chain.pins for chain in run.undecided)))
            self._untidy = bool(run.undecided)
        return self.report()

    def _units(self, plan: NodePlan) -> dict[ResourceKey, Unit]:
        """What shall run; what goes on under another name has it from here on."""
        for old, new in successors(self._policies_before, plan.policies, plan.held).items():
            self._rename(old, new)
        self._policies_before = plan.policies
        units = {unit.key: unit for unit in units_of(plan)}
        for key in plan.held:
            held = self.states[key].wanted if key in self.states else self._last_good.load(key)
            if held is not None and key not in units:
                units[key] = held
        lb = plan.lb
        if lb is not None and lb.key not in self.states and self.services and self.services.awaited(lb):
            # What code and maps Services need is not known yet: what ran before serves those in its maps.
            units[lb.key] = self._last_good.load(lb.key) or units[lb.key]
        return units

    def _fail(self, key: ResourceKey, failure: Failure, previous: Failure | None = None) -> None:
        state = self.states[key]
        state.failure = failure
        if previous is None or (previous.reason, previous.message) != (failure.reason, failure.message):
            for about in failure.owners or (key,):
                self._tell(about, failure.reason, f"{self._node}: {failure.message}", warning=True)

    def _tell(self, key: ResourceKey, reason: str, message: str, *, warning: bool = False) -> None:
        for about in self._resources.get(key) or (key,):
            self._happenings.append(Happening(about, warning, reason, message))

    # -- data ------------------------------------------------------------------------------------------------

    def _write_data(self, plan: NodePlan, run: Pass) -> None:
        """Fill the maps of the built-in datapaths before anything reads them."""
        self._add_services(plan.lb)
        self._answer(plan.lb)
        units: list[LbUnit | PolicyUnit] = [*plan.policies, *([self._served] if self._served else [])]
        self._local = host_addresses(self._served) if plan.policies else frozenset()
        for unit in units:
            if unit.key in run.versions:
                if isinstance(unit, LbUnit):
                    self._balanced = _balanced_interfaces(unit, run.host)
                self._write(unit, run.versions[unit.key].maps)

    def _write(self, unit: LbUnit | PolicyUnit, maps: Mapping[str, Map]) -> None:
        before = self.states[unit.key].failure
        try:
            if isinstance(unit, LbUnit):
                keep = self.services.kept(unit) if self.services is not None else None
                unit = self.lb_checks.applied_to(unit, self.lb.adopt(maps))
                unit, taken = without_taken(unit)
                unit = self._with_own_sources(unit)
                self.lb_upkeep.prepare(maps, self.lb.adopt(maps), self._balanced, snat_given(unit.config))
                unit = self.lb_links.applied_to(unit, self.lb.adopt(maps), self.lb_upkeep.ahead)
                unserved = self.lb.apply(maps, unit, keep=keep, ahead=self.lb_upkeep.ahead)
                assert self.lb.state is not None
                self.lb_upkeep.follow(maps, self.lb.state, unit.drain_seconds)
                self.lb_cutter.follow(maps, self.lb.state.take_left())
                self._tell_unserved(unit.key, unserved)
                self._tell_taken(unit.key, taken)
                self._happenings += self.lb_checks.happenings(self._node)
                self._lb_writes.succeeded(time.time())
            else:
                data = self.policies.setdefault(unit.key, PolicyData())
                data.apply(maps, unit, self._local)
        except (KubebeeError, OSError) as error:
            self._fail(unit.key, describe(error, Stage.MAPS), before)
            if isinstance(unit, LbUnit):
                self._lb_writes.failed(str(error), time.time())

    def _answer(self, lb: LbUnit | None) -> None:
        """Answer balancers that ask for the state of this node, where the load balancer and Services say."""
        if lb is None or self.lb_cut_over.handed_back:  # then they are kube-proxy's to answer
            self.lb_answers.follow((), ())
            return
        checks = self.services.health_checks(lb) if self.services is not None else ()
        self.lb_answers.follow(lb.healthz_ports, checks)
        for text in self.lb_answers.news():
            self._tell(lb.key, "HealthPortTaken", f"{self._node}: {text}", warning=True)

    def lb_condition(self) -> Condition:
        """How the load balancer is, for those who ask by HTTP."""
        state = next((state for key, state in self.states.items() if key.kind == "ServiceLB"), None)
        eligible = self.services is None or self.services.eligible
        if state is None or state.active is None:
            why = "no load balancer is loaded"
        elif state.syncing:
            why = "not all Services are known yet"
        elif state.wanted.key not in attachments(self.xdp, self.links):
            why = "it is attached nowhere"
        else:
            why = self._lb_writes.trouble(time.time())
        return Condition(why, self._lb_writes.last, eligible)

    def _add_services(self, lb: LbUnit | None) -> None:
        """Bring the frontends of Services up to date, and say what of them can't be served."""
        self._served = lb
        if lb is None or self.services is None:
            return
        self._served = self.services.added_to(lb)
        state = self.states[lb.key]
        state.syncing = self.services.awaited(lb)
        before, trouble = self.services.trouble(lb)
        if trouble is not None:
            self._fail(lb.key, trouble, before)
        for reason, text in self.services.news():
            self._tell(lb.key, reason, f"{self._node}: {text}", warning=True)

    def write_services(self) -> bool:
        """Bring changes of Services to the maps between two passes.

        Returns:
            Whether that was all there is to do; else a pass has to follow.
        """
        lb, plan = self._plan.lb, self._plan
        if lb is None or lb.services is None or self.services is None:
            return True
        state = self.states.get(lb.key)
        if state is None or state.active is None or not self.lb.holds(state.active.maps):
            return False  # a new version's maps are written, and whether it comes into force is not known yet
        if state.syncing or (state.failure is not None and state.failure.stage is Stage.MAPS):
            return False
        self._add_services(lb)
        self._answer(lb)
        assert self._served is not None
        self._write(self._served, state.active.maps)
        local = host_addresses(self._served) if plan.policies else frozenset()
        if local != self._local:
            self._local = local
            for unit in plan.policies:
                known = self.states.get(unit.key)
                if known is not None and known.active is not None:
                    self._write(unit, known.active.maps)
        return state.failure is None

    def _take_over(self) -> None:
        """Once the load balancer serves all that it shall, let it take over from kube-proxy."""
        lb = self._plan.lb
        state = self.states.get(lb.key) if lb is not None else None
        if lb is None or state is None or state.active is None or state.syncing or not lb.features.cut_over:
            self.lb_cut_over.rest()
            return
        if not self.lb.holds(state.active.maps) or not attachments(self.xdp, self.links).get(lb.key):
            return
        assert self.lb.state is not None
        try:
            self.lb_cut_over.follow(state.active.maps, self.lb.state, hand_back=lb.hand_back)
        except (KubebeeError, OSError) as error:
            self._fail(lb.key, describe(error, Stage.ATTACH), state.failure)

    def _tell_cut_over(self, text: str, reason: str) -> None:
        if self._plan.lb is not None:
            self._tell(self._plan.lb.key, reason, f"{self._node}: {text}")

    def _tell_uncut(self, text: str) -> None:
        for key in self.states:
            if key.kind == "ServiceLB":
                self._tell(key, "SocketsGoOn", f"{self._node}: {text}", warning=True)

    def _with_own_sources(self, lb: LbUnit) -> LbUnit:
        """The load balancer with source addresses of this node alone; says so where it has none of them."""
        if not snat_given(lb.config):
            self._source_notes = ()
            return lb
        lb, notes = with_own_sources(lb, own_addresses())
        for text in sorted({*notes} - {*self._source_notes}):
            self._tell(lb.key, "SnatAddressNotHere", f"{self._node}: {text}", warning=True)
        self._source_notes = notes
        return lb

    def _tell_unserved(self, key: ResourceKey, unserved: Sequence[Unserved]) -> None:
        if unserved:
            named = "; ".join(f"{one.owner} {one.key}: {one.why}" for one in unserved[:5])
            text = f"{len(unserved)} frontends are not served: {named}"
            hint = "all others are; remove some, or give them fewer backends"
            self._fail(key, Failure(Stage.MAPS, "MapFull", text, hint=hint), self.states[key].failure)

    def _tell_taken(self, key: ResourceKey, taken: Mapping[FrontendKey, Frontend]) -> None:
        if taken:
            named = "; ".join(f"{one.owner} {where}" for where, one in list(taken.items())[:5])
            text = f"{len(taken)} frontends are not served, as processes of the node listen there: {named}"
            hint = "all others are; give them another address or port, or end the process"
            owners = {explicit_owner(one) for one in taken.values()}
            failure = Failure(
                Stage.MAPS, "AddressInUse", text, hint=hint, permanent=False, owners=tuple(owners)
            )
            self._fail(key, failure, self.states[key].failure)

    # -- attaching -------------------------------------------------------------------------------------------

    def _attach_rest(self, key: ResourceKey, run: Pass) -> None:
        state = self.states[key]
        outcome = self.links.apply(run.versions[key], run.host)
        state.no_target = outcome.missing
        if outcome.failures and (state.failure is None or key in run.fresh):
            self._fail(key, describe(outcome.failures[0], Stage.ATTACH), state.failure)
            self._take_back(key, run)

    def _take_back(self, key: ResourceKey, run: Pass) -> None:
        """A new version that can't be attached everywhere leaves the one before it where it was."""
        failed, active = run.versions[key], self.states[key].active
        if active is not None and active is not failed:
            self.links.apply(active, run.host)
            run.versions[key] = active
            run.fresh.discard(key)
            failed.close()

    def _remove(self, key: ResourceKey) -> None:
        state = self.states.pop(key)
        self._compiler.forget(key)
        self.links.drop_unit(key)
        if state.active is not None:
            state.active.close()
        if key.kind == "ServiceLB":
            self.lb = LbData()
        elif key.kind == "HostPolicy":
            self.policies.pop(key, None)
        self._tell(key, "Removed", f"{self._node}: detached and unloaded")

    def _rename(self, old: ResourceKey, new: ResourceKey) -> None:
        """Let a unit go on under another name: its maps, its place in chains, what is known of it."""
        if old not in self.states or new in self.states:
            return
        self._compiler.forget(old)
        self._pins.rename_unit(old, new)
        self._last_good.rename(old, new)
        self.xdp.rename_unit(old, new)
        state = self.states[new] = self.states.pop(old)
        if state.active is not None:
            state.active.rename(new)
        if old in self.policies:
            self.policies[new] = self.policies.pop(old)

    def _settle(self, run: Pass) -> None:
        """What is attached now is the active version of its unit."""
        for key, loaded in run.versions.items():
            state = self.states[key]
            before, state.done = state.active, True
            if key in run.fresh and state.failure is None and not state.waits:
                self._last_good.save(loaded.unit)
            if before is loaded:
                continue
            state.active = loaded
            if before is not None:
                before.close()
            if key in run.fresh:
                state.notes = tuple(loaded.notes)
                if state.failure is None:
                    how = "adopted" if loaded.adopted else "loaded"
                    self._tell(
                        key, loaded_reason(loaded.adopted), f"{self._node}: {how} {loaded.load_hash[:12]}"
                    )

    def _collect_garbage(self, used_before: Set[Path]) -> None:
        """Unpin what nothing refers to: leftovers of old versions, of removed units, of a killed process."""
        used: set[Path] = self.links.pins() | self.xdp.pins() | used_before
        kept: set[str] = set()
        for key, state in self.states.items():
            if state.active is not None:
                used |= state.active.map_pins | state.active.program_pins
            elif not state.settled or self._last_good.load(key) is not None:
                kept.add(unit_directory(key))  # not known yet what of it is still wanted
        for pin in self._pins.all_pins():
            if pin not in used and pin.parent.name not in kept:
                pin.unlink(missing_ok=True)
        self._pins.remove_empty()
        self.links.sweep(kept)
        self._last_good.keep_only(self.states)

    # -- watching --------------------------------------------------------------------------------------------

    async def check(self) -> NodeReport | None:
        """Look for what was detached or unpinned behind our back and put it back.

        Returns:
            A report if anything was repaired, else None.
        """
        lost_links = self.links.lost()
        lost_chains = self.xdp.lost()
        emptied = self._lock is not None and not self._pins.holds(self._lock)
        lost_pins = emptied or any(not path.exists() for path in (*self.links.pins(), *self.xdp.pins()))
        moved = bool(self._plan.policies) and host_addresses(self._served) != self._local
        moved |= self._places is not None and self._host().primary() != self._places.primary
        if not (lost_links or lost_chains or lost_pins or moved):
            return None
        for key, link in lost_links:
            self._tell(
                key, "Reattached", f"{self._node}: {link.target.point} was detached by somebody", warning=True
            )
        for active in lost_chains:
            for key in {stage.key for stage in active.chain.stages}:
                text = f"{self._node}: XDP of {active.interface} was detached by somebody"
                self._tell(key, "Reattached", text, warning=True)
        if lost_pins and not emptied and not lost_links and not lost_chains:  # else apply does it
            with contextlib.suppress(PinError):  # said by apply
                self._repin()
        self._places = None  # attach everything anew that isn't
        return await self.apply(self._plan)

    def _take_back_bpffs(self) -> None:
        """Make sure of the bpf file system; one that was unmounted or emptied gets lock and pins again.

        Raises:
            PinError: it is not mounted, or another process has taken the instance meanwhile.
        """
        self._pins.prepare()
        if self._lock is not None and not self._pins.holds(self._lock):
            lock = self._pins.lock()
            os.close(self._lock)
            self._lock = lock
            self._repin()

    def _repin(self) -> None:
        """Pins were removed while the programs run on: pin everything again."""
        self._pins.prepare()
        for state in self.states.values():
            if state.active is not None:
                state.active.repin(self._pins)
                self._tell(state.wanted.key, "Repinned", f"{self._node}: pins had been removed", warning=True)
        self.xdp.repin()

    # -- reporting -------------------------------------------------------------------------------------------

    def report(self) -> NodeReport:
        """What runs now; happenings are handed over once."""
        attached = attachments(self.xdp, self.links)
        units = {
            key: unit_report(state, attached.get(key, ()), self._notes(key), self._fill(key))
            for key, state in self.states.items()
        }
        return NodeReport(self._node, units, self.take_happenings())

    def look_at_fill(self) -> bool:
        """See how full the load balancer's tables are; whether a report now says something else of that.

        Nothing is said before flows were counted once, so that it is all there at once.
        """
        lb, collected = self._plan.lb, self.lb_upkeep.collected
        state = self.states.get(lb.key) if lb is not None else None
        if lb is None or collected is None or state is None or state.active is None or self.lb.state is None:
            return False
        if not self.lb.holds(state.active.maps):
            return False
        return self.lb_fill.look(state.active.maps, self.lb.state, collected.held, lb.owners)

    def _fill(self, key: ResourceKey) -> tuple[Fill, ...]:
        return self.lb_fill.shown if key.kind == "ServiceLB" else ()

    def _notes(self, key: ResourceKey) -> tuple[str, ...]:
        if key.kind != "ServiceLB":
            return ()
        return (
            *self.lb_checks.notes(),
            *self.lb_links.notes(),
            *self.lb_cut_over.notes(),
            *self._source_notes,
        )

    def take_happenings(self) -> tuple[Happening, ...]:
        """What happened since this or `report` was called last."""
        happenings, self._happenings = tuple(self._happenings), []
        return happenings


def _balanced_interfaces(lb: LbUnit, host: Host) -> frozenset[int]:
    """Where packets that come in are balanced; a selector that can't be read selects nothing."""
    found: set[int] = set()
    for selector, mode in lb.interfaces:
        if mode != "Off":
            with contextlib.suppress(TargetError):
                found |= set(host.select(selector).found.values())
    return frozenset(found)


def loaded_reason(adopted: bool) -> str:
    """Reason of the Event for a version that runs now."""
    return "Adopted" if adopted else "Loaded"

"""The version of each unit that shall run: compiled, loaded and verified anew, adopted, or the one before.

Nothing that is attached is touched here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kubebee.errors import KubebeeError
from kubebee.loader import cutter, map_memory
from kubebee.loader.compiled import Compiled, Compiler, StillCompilingError, load_hash
from kubebee.loader.data import write_live_globals
from kubebee.loader.failures import describe
from kubebee.loader.last_good import LastGood
from kubebee.loader.loaded import Loaded, load_unit, sizes_of
from kubebee.loader.pins import PinRoot
from kubebee.loader.state import Pass, UnitState
from kubebee.loader.unit import Rank, Unit
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Failure, Stage

COMPILE_PATIENCE = 1.0
"""Seconds that a pass waits for compilers: a source that keeps one busy must not hold up other edits."""


class Versions:
    """Makes versions.

    Args:
        pins: where the maps of earlier versions are.
        compiler: compiles.
        last_good: versions that ran before a broken edit.
        states: what is known of each unit; gets an entry for each new one.
        fail: is told of units that fail, with the failure before.
    """

    def __init__(
        self,
        pins: PinRoot,
        compiler: Compiler,
        last_good: LastGood,
        states: dict[ResourceKey, UnitState],
        fail: Callable[[ResourceKey, Failure, Failure | None], None],
    ) -> None:
        self._pins = pins
        self._compiler = compiler
        self._last_good = last_good
        self._states = states
        self._fail = fail

    async def prepare(self, units: dict[ResourceKey, Unit], run: Pass, *, moved: bool) -> None:
        """Find or make the version of each unit, for `run`; those of which none can be made have none there.

        Args:
            units: what shall run.
            run: the pass at hand.
            moved: interfaces came, went or were renamed.
        """
        work = []
        for key, unit in units.items():
            state = self._states.get(key)
            if state is None:
                state = self._states[key] = UnitState(unit)
            same = state.wanted is unit or state.wanted == unit
            state.wanted = unit
            if state.failure is not None and state.failure.stage is Stage.MAPS:
                state.failure = None  # data is written anew at every pass
            # Of places that refused it, some may be gone.
            again = moved and state.failure is not None and state.failure.stage is Stage.ATTACH
            if same and state.settled and not again:
                if state.active is not None:
                    run.versions[key] = state.active
            else:
                work.append(key)
        run.prepared = bool(work)
        await asyncio.gather(*(self._prepare(key, run) for key in work))

    async def _prepare(self, key: ResourceKey, run: Pass) -> None:
        state = self._states[key]
        previous = state.failure
        state.failure, state.notes, state.compiling, state.waits, state.done = None, (), False, False, False
        try:
            loaded = await self._load(state.wanted, state)
        except StillCompilingError:
            state.compiling = True
            if state.active is not None:
                run.versions[key] = state.active
            return
        except Exception as error:
            self._fail(key, describe(error, Stage.VERIFY, state.wanted), previous)
            fallback = state.active or await self.last_good(key)
            if fallback is not None:
                run.versions[key] = fallback
            return
        run.versions[key] = loaded
        run.fresh.add(key)

    def undecided(self, run: Pass) -> list[ResourceKey]:
        """Units of which nothing is at hand, yet may be at the next try."""
        return [
            key
            for key, state in self._states.items()
            if key not in run.versions and state.failure is not None and not state.failure.permanent
        ]

    async def _load(self, unit: Unit, state: UnitState) -> Loaded:
        """The version of `unit`: the active one if only data or places changed, an adopted or a new one."""
        # After a restart, a chain must not be exchanged for one without a stage that is still being compiled.
        ran_before = state.active is None and bool(self._pins.maps_of(unit.key))
        patience = None if ran_before else COMPILE_PATIENCE
        compiled = _known(state.active, unit) or await self._compiler.unit(unit, patience)
        state.compile_seconds = sum(item.seconds for item in compiled if not item.cached)
        sizes = sizes_of(unit, self._pins)
        active = state.active
        if active is not None and active.compiled is compiled and active.sizes == sizes:
            digest = active.load_hash
        else:
            digest = load_hash(compiled, sizes)
        if active is not None and active.load_hash == digest:
            self._globals(compiled, active, active.unit)
            active.unit, active.compiled = unit, compiled
            return active
        if unit.rank is Rank.LB:
            schemas = (schema for item in compiled for schema in item.facts.maps)
            map_memory.check(schemas, sizes, "spec.limits")
        loaded = load_unit(unit, compiled, digest, sizes, self._pins)
        before = active.unit if active is not None else self._last_good.load(unit.key) if ran_before else None
        self._globals(compiled, loaded, before)
        loaded.notes += [text for item in compiled for text in item.warnings]
        loaded.notes += cutter.notes(loaded.maps)
        return loaded

    @staticmethod
    def _globals(compiled: tuple[Compiled, ...], loaded: Loaded, before: Unit | None) -> None:
        for index, item in enumerate(compiled):
            earlier = before.objects[index].globals if before and index < len(before.objects) else {}
            if item.elf and (item.code.globals or earlier):
                write_live_globals(item, index, loaded.maps, earlier)

    async def last_good(self, key: ResourceKey) -> Loaded | None:
        """After a restart: the version that ran before a broken edit."""
        unit = self._last_good.load(key)
        if unit is None:
            return None
        try:
            compiled = await self._compiler.unit(unit)
            sizes = sizes_of(unit, self._pins)
            return load_unit(unit, compiled, load_hash(compiled, sizes), sizes, self._pins)
        except (KubebeeError, OSError):
            return None


def _known(active: Loaded | None, unit: Unit) -> tuple[Compiled, ...]:
    """What is compiled already: an edit of addresses or rules touches no file of the cache."""
    if active is None or active.unit.objects != unit.objects:
        return ()
    from_node = any(code.bundle.path for code in unit.objects)  # such a file may be another one by now
    return () if from_node else active.compiled

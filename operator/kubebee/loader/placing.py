"""Which stages every interface shall run, in which order and mode: pure, from versions and interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubebee.api.v1alpha1.attach import XdpAttach
from kubebee.errors import KubebeeError
from kubebee.loader.chain import Chain, Stage
from kubebee.loader.counted import XDP_VERDICTS
from kubebee.loader.host import Host
from kubebee.loader.loaded import Loaded
from kubebee.loader.unit import Rank
from kubebee.planner.plan import FunctionPlan, ResourceKey

DEFAULT_PROCEED = ("PASS",)
DEFAULT_MASK = 1 << XDP_VERDICTS.index("PASS")


class ModeConflictError(KubebeeError):
    """Two programs of one interface insist on different XDP modes."""

    reason = "ModeConflict"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one interface shall run."""

    ifindex: int
    mode: str
    chain: Chain


@dataclass
class Placing:
    """The chain of every interface, and what kept stages from it.

    Attributes:
        missing: interfaces that a unit names and that are not there.
        refused: units with a stage that was left out, and why.
    """

    chains: dict[str, Wanted] = field(default_factory=dict)
    missing: dict[ResourceKey, tuple[str, ...]] = field(default_factory=dict)
    refused: list[tuple[ResourceKey, KubebeeError]] = field(default_factory=list)


def place(versions: Mapping[ResourceKey, Loaded], host: Host) -> Placing:
    """Lay out the XDP functions of all units over the interfaces of a host."""
    result = Placing()
    stages: dict[str, list[tuple[Stage, str]]] = {}
    found: dict[str, int] = {}
    for key, loaded in versions.items():
        missing: list[str] = []
        for plan in loaded.unit.functions:
            if not isinstance(plan.attach, XdpAttach):
                continue
            try:
                selected = host.select(plan.attach.interfaces)
            except KubebeeError as error:
                result.refused.append((key, error))
                continue
            missing += selected.missing
            usable = selected.found
            if plan.optional:
                lossy = host.loses_frames()
                usable = {name: index for name, index in usable.items() if index not in lossy}
            found |= usable
            for name in usable:
                here = stages.setdefault(name, [])
                if not any((stage.key, stage.function) == (key, plan.name) for stage, _ in here):
                    here.append((stage_of(loaded, plan), plan.attach.mode))
        result.missing[key] = tuple(missing)
    for name in sorted(stages):
        mode, agreed = _agree(name, stages[name], result)
        if agreed:
            result.chains[name] = Wanted(found[name], mode, Chain(tuple(agreed)))
    return result


def _agree(interface: str, placed: list[tuple[Stage, str]], result: Placing) -> tuple[str, list[Stage]]:
    """The mode of an interface, which the earlier stage decides, and the stages that agree with it."""
    insisted = "Auto"
    stages = []
    for stage, mode in sorted(placed, key=lambda pair: pair[0].order):
        if mode != "Auto" and insisted not in ("Auto", mode):
            error = ModeConflictError(
                f"asks for mode {mode}, a program before it for {insisted}",
                where=interface,
                hint="an interface has one mode; let both ask for the same, or for Auto",
            )
            result.refused.append((stage.key, error))
            continue
        insisted = mode if insisted == "Auto" else insisted
        stages.append(stage)
    return insisted, stages


def stage_of(loaded: Loaded, plan: FunctionPlan) -> Stage:
    """The part that a loaded function has in a chain."""
    mask = None
    if loaded.unit.rank is Rank.USER:
        verdicts = plan.proceed_on or DEFAULT_PROCEED
        mask = sum(1 << XDP_VERDICTS.index(verdict.upper()) for verdict in verdicts)
    return Stage(
        key=loaded.unit.key,
        function=plan.name,
        rank=loaded.unit.rank,
        priority=plan.priority,
        proceed_mask=mask,
        elf=loaded.elf_of(plan.name),
        load_hash=loaded.load_hash,
        maps=loaded.maps,
        run_map=loaded.run_maps[plan.name],
        generation=loaded.unit.generation,
        program=loaded.programs.get(plan.name),
        optional=plan.optional,
    )

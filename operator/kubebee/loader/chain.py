"""The one XDP program of an interface: stages joined to a dispatcher by static linking.

Stages keep their own maps: the chain's object only refers to them, so that exchanging one stage leaves the
counters of all others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubebee.bpf.constants import MapType
from kubebee.bpf.linker import link
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.bpf.stage import as_stage, stage_maps
from kubebee.errors import KubebeeError
from kubebee.loader.chain_object import ChainObject, KeptMap, KeptStage
from kubebee.loader.counted import RUN_MAP, RUN_VALUE_SIZE
from kubebee.loader.unit import Rank
from kubebee.planner.plan import Bundle, ResourceKey, Toolchain
from kubebee.render.c_value import CIdent, RenderValue
from kubebee.render.environment import render_builtin

ENTRY = "kb_xdp"


class NotLinkableError(KubebeeError):
    """A program that can only run alone on its interface isn't alone there; that may pass without an edit."""

    reason = "NotLinkable"


@dataclass(frozen=True, slots=True)
class Stage:
    """A function that takes part in a chain.

    Attributes:
        proceed_mask: bit N: after verdict N the next stage runs; None for a built-in stage.
        elf: the object that the function is in.
        load_hash: identifies the code with its constants.
        maps: the unit's maps by the names of its source.
        run_map: counters of this function, see templates/include/chain.h.
        program: set for code that can't be linked (BCC): the whole program, which then runs alone.
        optional: something else does its work where it can't run.
    """

    key: ResourceKey
    function: str
    rank: Rank
    priority: int
    proceed_mask: int | None
    elf: bytes
    load_hash: str
    maps: Mapping[str, Map]
    run_map: Map
    generation: int
    program: Program | None = None
    optional: bool = False

    @property
    def order(self) -> tuple[int, int, str, str]:
        """Sort key: rank, then priority, then name, so that equal priorities have one order everywhere."""
        return (self.rank, self.priority, self.key.name, self.function)

    @property
    def identity(self) -> str:
        """Equal for stages that make an equal part of a chain; of each function the run map is its own."""
        return f"{self.function}:{self.load_hash}:{self.proceed_mask}:{self.run_map.info.id}"


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages in the order they run."""

    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Chain:
        """The chain of some stages, in their order."""
        return cls(tuple(sorted(stages, key=lambda stage: stage.order)))

    @property
    def hash(self) -> str:
        """Equal chains have equal programs."""
        return hashlib.sha256("\n".join(stage.identity for stage in self.stages).encode()).hexdigest()

    @property
    def generation(self) -> int:
        """Of the resources together: grows with every edit of one of them."""
        return sum(stage.generation for stage in self.stages)

    @property
    def direct(self) -> Program | None:
        """The program to attach as it is, for a chain of one stage that can't be linked."""
        return self.stages[0].program if len(self.stages) == 1 else None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """What the dispatcher's text depends on."""
        return tuple(stage.proceed_mask for stage in self.stages)


def dispatcher_bundle(shape: tuple[int | None, ...]) -> Bundle:
    """Source of the dispatcher for stages with these masks (None: built-in).

    Symbols go by position, not by resource, so that all chains of one shape share one compilation.
    """
    stages: list[RenderValue] = [
        {
            "symbol": CIdent(f"s{index}_{ENTRY}"),
            "run_map": CIdent(f"s{index}_run"),
            "builtin": mask is None,
            "proceed_mask": mask or 0,
        }
        for index, mask in enumerate(shape)
    ]
    return Bundle(
        toolchain=Toolchain.CLANG,
        source=render_builtin("dispatcher", {"stages": stages}),
        filename="dispatcher.bpf.c",
        trusted=True,
    )


def link_chain(chain: Chain, dispatcher: bytes) -> ChainObject:
    """Link a chain; nothing reaches the kernel.

    Args:
        chain: its stages.
        dispatcher: object compiled from `dispatcher_bundle(chain.shape)`.

    Raises:
        KubebeeError: a stage can't be linked.
    """
    for stage in chain.stages:
        if stage.program is not None:
            raise NotLinkableError(
                f"{stage.function} is made by BCC, which gives nothing to link: it can't share an interface",
                hint="give it an interface of its own, or use toolchain Clang",
            )
    objects = [dispatcher]
    maps: list[KeptMap] = []
    for index, stage in enumerate(chain.stages):
        prefix = f"s{index}"
        objects.append(as_stage(stage.elf, stage.function, prefix, symbol=f"{prefix}_{ENTRY}"))
        maps.append(KeptMap(f"{prefix}_run", index, RUN_MAP, stage.run_map.info.id))
        maps += [
            KeptMap(linked, index, name, stage.maps[name].info.id)
            for name, linked in stage_maps(stage.elf, prefix).items()
            if name in stage.maps
        ]
    stages = (
        KeptStage(one.key.kind, one.key.name, one.function, one.proceed_mask is None) for one in chain.stages
    )
    return ChainObject(ENTRY, tuple(stages), tuple(maps), link(objects))


def load_chain(chain: Chain, dispatcher: bytes) -> Program:
    """Link, verify and load a chain; nothing is attached. See `link_chain` and `load_linked`."""
    return load_linked(chain, link_chain(chain, dispatcher))


def load_linked(chain: Chain, linked: ChainObject) -> Program:
    """Verify and load a chain that `link_chain` made; nothing is attached.

    Raises:
        LoadError: the verifier or libbpf refuses it; `.log` has the end of the verifier's output.
    """
    with BpfObject.open(linked.elf, name="kb_chain") as opened:
        for each in linked.maps:
            if each.linked in opened.maps:
                stage = chain.stages[each.stage]
                shared = stage.run_map if each.name == RUN_MAP else stage.maps[each.name]
                opened.maps[each.linked].reuse_fd(shared.fd)
        opened.load()
        return opened.programs[linked.entry].duplicate()


def new_run_map() -> Map:
    """Fresh counters for one function."""
    return Map.create(MapType.PERCPU_ARRAY, 4, RUN_VALUE_SIZE, 1, name=RUN_MAP)

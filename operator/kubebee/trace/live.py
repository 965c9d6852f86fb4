"""What runs where packets of an interface come in, and what it was loaded from."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from kubebee.bpf.clsact import Hook
from kubebee.bpf.link import Link
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program
from kubebee.errors import KubebeeError
from kubebee.lb.family import Family
from kubebee.loader import chain_object
from kubebee.loader.chain_object import ChainObject
from kubebee.loader.filters import Filters
from kubebee.loader.pins import CHAIN, PinRoot
from kubebee.planner.plan import LbUnit

_XDP_STAGE, _TC_FUNCTION = "kb_servicelb", "kb_lb_ingress"


class At(enum.StrEnum):
    """Where a packet that comes in is seen."""

    XDP = "xdp"
    TC = "tc"


class NoChainError(KubebeeError):
    """Nothing of kubebee that could be run is on an interface."""

    reason = "NoChain"


@dataclass(frozen=True, slots=True)
class LiveChain:
    """What runs on an interface; at tc the load balancer alone, its program of one family.

    Attributes:
        tag: the kernel's digest of the program's instructions.
    """

    interface: str
    ifindex: int
    program_id: int
    tag: str
    made_from: ChainObject
    at: At = At.XDP

    @property
    def balancer(self) -> int | None:
        """Place of the load balancer in the chain."""
        found = (i for i, s in enumerate(self.made_from.stages) if s.builtin and is_balancer(s.function))
        return next(found, None)


def is_balancer(function: str) -> bool:
    """Whether a built-in function is the load balancer's."""
    return function.startswith((_XDP_STAGE, _TC_FUNCTION))


def live_on(pins: PinRoot, interface: str, ifindex: int, family: Family, at: At | None = None) -> LiveChain:
    """Find what an interface of this network namespace runs.

    Args:
        pins: of the instance.
        interface: its name.
        ifindex: its index.
        family: of the packet.
        at: where; None: where the load balancer sees packets first.

    Raises:
        NoChainError: nothing of this instance is attached there, or it can't be run apart.
        BpfError: a pin can't be read.
    """
    if at is At.TC:
        return _at_tc(pins, interface, ifindex, family)
    try:
        chain = live_chain(pins, interface, ifindex)
    except NoChainError:
        if at is At.XDP or _program_at_tc(pins, ifindex, family) is None:
            raise
        return _at_tc(pins, interface, ifindex, family)
    if at is None and chain.balancer is None and _program_at_tc(pins, ifindex, family) is not None:
        return _at_tc(pins, interface, ifindex, family)
    return chain


def live_chain(pins: PinRoot, interface: str, ifindex: int) -> LiveChain:
    """Find what an interface of this network namespace runs at XDP.

    Raises:
        NoChainError: nothing of this instance is attached there, or it can't be run apart.
        BpfError: a pin can't be read.
    """
    for pin in pins.links_of(CHAIN):
        if pin.target.rpartition(":")[2] != str(ifindex):
            continue
        with Link.from_pin(pin.path) as link:
            info = link.info
        if info.ifindex != ifindex:
            continue
        kept = pins.chain_object(CHAIN, pin.load_hash)
        if not kept.exists():
            raise NoChainError(
                "the code that runs there was loaded by BCC or by an older kubebee: it can't be run apart",
                where=interface,
                hint="a restart of kubebee keeps what is missing; what BCC made can't be traced",
            )
        with Map.from_pin(kept) as stored, Program.from_id(info.prog_id) as program:
            return LiveChain(interface, ifindex, info.prog_id, program.info.tag, chain_object.read(stored))
    raise NoChainError(
        "kubebee runs nothing at XDP on this interface",
        where=interface,
        hint="`kubebee status` says where it does; --interface names another one",
    )


def _at_tc(pins: PinRoot, interface: str, ifindex: int, family: Family) -> LiveChain:
    number = _program_at_tc(pins, ifindex, family)
    if number is None:
        raise NoChainError(
            "the load balancer is not at tc on this interface",
            where=interface,
            hint="`kubebee status` says where it is; --interface names another one",
        )
    function = f"{_TC_FUNCTION}{family.suffix}"
    for load_hash in _hashes(pins, function, number):
        kept = pins.filter_object(LbUnit.key, function, load_hash)
        if kept.exists():
            with Map.from_pin(kept) as stored, Program.from_id(number) as program:
                tag = program.info.tag
                return LiveChain(interface, ifindex, number, tag, chain_object.read(stored), At.TC)
    raise NoChainError(
        "the code that runs there was loaded by an older kubebee: it can't be run apart",
        where=interface,
        hint="a restart of kubebee keeps what is missing",
    )


def _program_at_tc(pins: PinRoot, ifindex: int, family: Family) -> int | None:
    """Id of the program that sees what comes in; None: there is none."""
    function = f"{_TC_FUNCTION}{family.suffix}"
    for pin in pins.links_of(LbUnit.key):
        if pin.function == function and pin.target == f"tc:{ifindex}:ingress":
            with Link.from_pin(pin.path) as link:
                if link.info.ifindex == ifindex:  # else the interface is gone, and its number was given anew
                    return link.info.prog_id
    found = Filters(pins).find(LbUnit.key, function, Hook(ifindex, ingress=True))
    return found.prog_id() if found is not None else None


def _hashes(pins: PinRoot, function: str, number: int) -> Iterator[str]:
    """Load hashes of the pinned versions of a function that are the program of this id."""
    for path in pins.programs_of(LbUnit.key).get(function, []):
        with Program.from_pin(path) as pinned:
            if pinned.info.id == number:
                yield path.name.rpartition("@")[2]

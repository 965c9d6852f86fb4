"""Map contents of the built-in datapaths, and of live global variables: changed without loading anything."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from kubebee.api.v1alpha1.values import FreeValue
from kubebee.bpf.addresses import ipv4_addresses
from kubebee.bpf.globals import Global, Globals, read_globals
from kubebee.bpf.map import Map
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.lb import model as lb_model
from kubebee.lb import sockets as lb_sockets
from kubebee.lb import sync as lb_sync
from kubebee.lb.family import IPV4, IPV6, Family, family_of
from kubebee.lb.family_state import Ahead
from kubebee.lb.model import Frontend, FrontendKey, LbConfig
from kubebee.lb.sync import LbState, Unserved
from kubebee.loader.compiled import Compiled
from kubebee.loader.loaded import local_name
from kubebee.planner.plan import LbUnit, PolicyUnit
from kubebee.policy import layout as policy_layout
from kubebee.policy.compile import CompiledPolicy, compile_policies
from kubebee.policy.local import apply_local
from kubebee.policy.sync import PolicyState

log = logging.getLogger("kubebee")


class LbData:
    """What the load balancer's maps hold."""

    def __init__(self) -> None:
        self.state: LbState | None = None
        self._maps: frozenset[int] = frozenset()

    def holds(self, maps: Mapping[str, Map]) -> bool:
        """Whether these are the maps that were written last."""
        return self.state is not None and self._maps == _ids(maps)

    def adopt(self, maps: Mapping[str, Map]) -> LbState:
        """What the maps have, read anew if they are others than before."""
        current = _ids(maps)
        if self.state is None or current != self._maps:
            self.state = None  # if adopting fails, the next pass adopts again
            self.state = LbState.adopt(maps)
            self._maps = current
        return self.state

    def apply(
        self,
        maps: Mapping[str, Map],
        unit: LbUnit,
        *,
        keep: Callable[[Frontend], bool] | None = None,
        ahead: Ahead | None = None,
    ) -> tuple[Unserved, ...]:
        """Write the differences between the maps and `unit`; adopts what it finds first.

        Args:
            maps: the load balancer's.
            unit: what they shall hold.
            keep: tells of a frontend that the maps have and `unit` has not whether it stays: it may not be
                known yet if somebody wants it. None: all go.
            ahead: told of addresses of backends before they are written.

        Returns:
            Frontends that a full map has no room for.

        Raises:
            LbModelError: SNAT needs a source address and there is none.
            BpfError: a map refused a write.
        """
        state = self.adopt(maps)
        lb_sockets.apply(maps)
        if unit.features.ipv6 and not IPV6.present(maps):  # this version runs because the newest failed
            unit = _without_ipv6(unit)
        kept = {key: each for key, each in _served(state).items() if keep(each)} if keep else {}
        if kept:
            unit = replace(unit, frontends=kept | dict(unit.frontends))
        try:
            config = _with_addresses(unit, state.families)
            report = state.apply(maps, unit.frontends, config, ahead)
        except BpfError:
            self.state = None  # which of its writes the maps have is for them to say
            raise
        if report.crowded:
            log.warning(
                "the slot array has no room for the tables that %d frontends had before: connections of these"
                " under DSR may go to other backends",
                report.crowded,
            )
        return report.unserved


def _ids(maps: Mapping[str, Map]) -> frozenset[int]:
    return frozenset(maps[name].info.id for name in lb_sync.map_names(maps))


def _without_ipv6(unit: LbUnit) -> LbUnit:
    frontends = {key: each for key, each in unit.frontends.items() if family_of(key.address) is not IPV6}
    return replace(unit, frontends=frontends) if len(frontends) < len(unit.frontends) else unit


def _served(state: LbState) -> dict[FrontendKey, Frontend]:
    """What the maps have, as somebody once wanted it."""
    return {key: one.desired for key, one in state.served.items() if one.desired is not None}


def snat_given(config: LbConfig) -> frozenset[Family]:
    """Families whose source address towards SNAT backends somebody chose."""
    addresses = {IPV4: config.snat_address, IPV6: config.snat_address6}
    return frozenset(family for family, address in addresses.items() if address)


def with_own_sources(unit: LbUnit, own: Collection[bytes]) -> tuple[LbUnit, tuple[str, ...]]:
    """The load balancer with those source addresses that this node has, and what to say of the others.

    One object may name the addresses of many nodes. Answers to an address that a node lacks go elsewhere.

    Args:
        unit: with all that were given.
        own: addresses of this node.
    """
    config = unit.config
    notes, kept = [], []
    for family, given in ((IPV4, config.snat_sources), (IPV6, config.snat_sources6)):
        here = [address for address in given if address in own]
        if given and not here:
            named = ", ".join(map(lb_model.format_address, given))
            text = f"this node has none of {named}; its own {family} address serves"
            notes.append(f"spec.snat.addresses: {text}")
        kept.append(here)
    if (kept[0], kept[1]) == ([*config.snat_sources], [*config.snat_sources6]):
        return unit, ()
    return replace(unit, config=config.with_sources(*kept)), tuple(notes)


def _with_addresses(unit: LbUnit, families: Iterable[Family]) -> LbConfig:
    """The settings, with the node's own address towards a family's first backend where none is given."""
    config = unit.config
    wanted = {IPV4: config.snat_address, IPV6: config.snat_address6}
    for family in families:
        wanted[family] = wanted[family] or _address_towards(unit, family)
    return replace(config, snat_address=wanted[IPV4], snat_address6=wanted[IPV6])


def _address_towards(unit: LbUnit, family: Family) -> bytes:
    frontends = (each for each in unit.frontends.values() if len(each.key.address) == family.address_bytes)
    first = next((backend for frontend in frontends for backend in frontend.backends), None)
    return source_address(first.address) or b"" if first else b""


def source_address(destination: bytes) -> bytes | None:
    """The address this node would send from to `destination`; sends nothing."""
    family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((lb_model.format_address(destination), 9))
        except OSError:
            return None
        return lb_model.parse_address(probe.getsockname()[0])


class PolicyData:
    """What one firewall stage's maps hold."""

    def __init__(self) -> None:
        self.state: PolicyState | None = None
        self.compiled: CompiledPolicy | None = None
        self._maps: frozenset[int] = frozenset()
        self._applied: PolicyUnit | None = None

    def apply(self, maps: Mapping[str, Map], unit: PolicyUnit, local: frozenset[bytes]) -> None:
        """Write the differences between the maps and `unit`.

        Args:
            maps: maps of the stage.
            unit: the policies.
            local: addresses of this host and of its frontends: what a host policy is for.

        Raises:
            PolicyError: too many rules, prefixes or port ranges.
        """
        names = (policy_layout.VARIABLE_MAP, policy_layout.HITS_MAP)
        current = frozenset(maps[name].info.id for name in names)
        if self.state is None or current != self._maps:
            self.state, self.compiled = PolicyState.adopt(maps), None
            self._maps = current
        if self._applied != unit or self.compiled is None:
            self.compiled = compile_policies(unit.policies, self.state.slots, unit.failsafe)
        apply_local(maps, local)
        self.state.apply(maps, self.compiled)
        self._applied = unit


def host_addresses(lb: LbUnit | None) -> frozenset[bytes]:
    """IPv4 addresses whose traffic is for this host: its interfaces' and its frontends'."""
    own = {lb_model.parse_address(address) for address in ipv4_addresses()}
    served = {key.address for key in lb.frontends} if lb else set()
    return frozenset(own | {address for address in served if len(address) == 4})


def write_live_globals(
    item: Compiled, index: int, maps: Mapping[str, Map], before: Mapping[str, FreeValue]
) -> int:
    """Let the variables that are no constants have the values of the manifest.

    Args:
        item: the object and the values.
        index: place of the object in its unit.
        maps: the unit's maps.
        before: values that were declared before, perhaps for other code; a variable that is no longer
            declared gets back the value of the source.

    Returns:
        How many variables were written.
    """
    if not item.code.globals and not before:
        return 0
    variables = read_globals(item.elf)
    names = {*item.code.globals, *(name for name in before if name in variables.variables)}
    names -= set(item.facts.constants)
    # All values are checked before the first is written: one that is refused leaves every variable as it was.
    wanted = {
        name: _bytes_of(variables, variables.variable(name), item.code.globals) for name in sorted(names)
    }
    written = 0
    for name, value in wanted.items():
        variable = variables.variable(name)
        target = maps[local_name(variable.section, index)]
        key = bytes(4)
        current = target.lookup(key)
        if current is None:
            raise KubebeeError("its data section can't be read", reason="MapUnreadable", where=name)
        end = variable.offset + variable.size
        if current[variable.offset : end] != value:
            target.update(key, current[: variable.offset] + value + current[end:])
            written += 1
    return written


def _bytes_of(variables: Globals, variable: Global, declared: Mapping[str, FreeValue]) -> bytes:
    """What a variable shall hold: the declared value, else that of the source."""
    sections = variables.sections
    if variable.name in declared:
        sections = variables.patch({variable.name: declared[variable.name]})
    return sections[variable.section][variable.offset : variable.offset + variable.size]

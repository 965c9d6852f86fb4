"""The load balancer's maps of both families, as the rest of the loader sees them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce

from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.family import FAMILIES, IPV4, Family, family_of
from kubebee.lb.family_state import Ahead, FamilyState
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Frontend, FrontendKey, LbConfig, LbModelError
from kubebee.lb.reports import Left, SyncReport, Unserved
from kubebee.lb.served import Served

__all__ = ["CONFIG_MAP", "LbState", "SyncReport", "Unserved", "has_maps", "map_names"]

CONFIG_MAP = "kb_lb_cfg"


def map_names(maps: Mapping[str, object]) -> tuple[str, ...]:
    """Those of the maps that LbState writes; flows are for gc alone."""
    present = [family for family in FAMILIES if family.present(maps)]
    direct = (name for family in present for name in (family.here, family.own) if name in maps)
    return (CONFIG_MAP, *(name for family in present for name in family.map_names), *direct)


def has_maps(maps: Mapping[str, object]) -> bool:
    """Whether there is all that LbState needs."""
    return maps.keys() >= {CONFIG_MAP, *IPV4.map_names}


class LbState:
    """What is in the maps. One per set of maps, one writer.

    Attributes:
        families: IPv4 always, IPv6 where its maps are rendered.
    """

    def __init__(self, families: Mapping[Family, FamilyState], config: bytes) -> None:
        self.families = families
        self._config = config

    @classmethod
    def adopt(cls, maps: Mapping[str, Map]) -> LbState:
        """Read the state from maps, new ones or an earlier loader's, and end what it left half done."""
        present = [family for family in FAMILIES if family.present(maps)]
        return cls({family: FamilyState.adopt(maps, family) for family in present}, _config_of(maps))

    @classmethod
    def observe(cls, maps: Mapping[str, Map]) -> LbState:
        """The state as the maps' writer has it, to look at only: nothing is written."""
        present = [family for family in FAMILIES if family.present(maps)]
        return cls({family: FamilyState.observe(maps, family) for family in present}, _config_of(maps))

    @property
    def served(self) -> Mapping[FrontendKey, Served]:
        """Frontends of both families."""
        if len(self.families) == 1:
            return self.families[IPV4].served
        return ChainMap(*(state.served for state in self.families.values()))

    def apply(
        self,
        maps: Mapping[str, Map],
        desired: Mapping[FrontendKey, Frontend],
        config: LbConfig,
        ahead: Ahead | None = None,
    ) -> SyncReport:
        """Make the maps serve exactly `desired` (see model.merge), which nobody changes afterwards.

        A frontend that finds no room is reported and leaves the others alone. Of addresses that backends come
        to have `ahead` is told before they are written.

        Raises:
            LbModelError: SNAT is wanted and `config` has no IPv4 address for it, or IPv6 and there are no
                maps for it; no frontend was written. Without an IPv6 address those of IPv6 are reported.
            BpfError: a map refused a write. What the maps show is whole; adopt() them anew.
        """
        parts = dict(self._split(desired))
        left_out: list[Unserved] = []
        for family, part in parts.items():
            if not (config.snat_address if family is IPV4 else config.snat_address6):
                if family is IPV4:
                    _refuse_snat(part.values(), family)
                parts[family], unserved = _without_snat(part, family)
                left_out += unserved
        self._write_config(maps[CONFIG_MAP], config)
        reports = [self.families[family].apply(maps, part, ahead) for family, part in parts.items()]
        reports.append(SyncReport(unserved=tuple(left_out)))
        return reduce(SyncReport.plus, reports)

    def _split(
        self, desired: Mapping[FrontendKey, Frontend]
    ) -> Iterator[tuple[Family, Mapping[FrontendKey, Frontend]]]:
        if len(self.families) == 1:  # what is of another family is refused there
            yield IPV4, desired
            return
        for family in self.families:
            length = family.address_bytes
            yield family, {key: each for key, each in desired.items() if len(key.address) == length}

    def _write_config(self, settings: Map, config: LbConfig) -> None:
        packed = layout.pack_config(config)
        if packed != self._config:
            settings.update(layout.u32(0), packed)
            self._config = packed

    def set_next_hops(self, maps: Mapping[str, Map], hops: Mapping[bytes, NextHop | None]) -> int:
        """Write how backends are reached, by address; None = look the route up for each packet.

        Returns the number of backends written. A changed hop is withdrawn before it is replaced, so
        that no packet leaves with half of each.
        """
        return sum(state.set_next_hops(maps, family.of(hops)) for family, state in self.families.items())

    def addresses(self) -> set[bytes]:
        """Return the addresses of all backends, gone ones too: flows may still lead there."""
        return set().union(*(state.addresses() for state in self.families.values()))

    def take_arrived(self) -> set[bytes]:
        """Return addresses of backends written since this or addresses() was last called."""
        return set().union(*(state.take_arrived() for state in self.families.values()))

    def take_left(self) -> list[Left]:
        """Return backends that left since the last call; at first those of an earlier loader too."""
        return [
            Left(number, value.address, value.port)
            for state in self.families.values()
            for number, value in state.take_left().items()
        ]

    def next_hop(self, address: bytes) -> NextHop | None:
        """Return how backends at `address` are reached, as written; None = by a route lookup."""
        state = self.families.get(family_of(address))
        return state.next_hop(address) if state else None

    def forget_next_hops(self, addresses: Iterable[bytes]) -> None:
        """Drop the hops of addresses that no backend has any more, so that none comes back with one."""
        gone = list(addresses)
        for state in self.families.values():
            state.forget_next_hops(gone)


def _config_of(maps: Mapping[str, Map]) -> bytes:
    return maps[CONFIG_MAP].lookup(layout.u32(0)) or b""


def _needs_snat(frontend: Frontend) -> bool:
    return frontend.forwarding is Forwarding.SNAT and bool(frontend.backends) and not frontend.sockets_only


def _without_snat(
    frontends: Mapping[FrontendKey, Frontend], family: Family
) -> tuple[Mapping[FrontendKey, Frontend], list[Unserved]]:
    """Those that do without a source address of the node, and those that do not."""
    why = f"SNAT needs a source address and this node has none of {family}"
    unserved = [Unserved(key, each.owner, why) for key, each in frontends.items() if _needs_snat(each)]
    if not unserved:
        return frontends, unserved
    return {key: each for key, each in frontends.items() if not _needs_snat(each)}, unserved


def _refuse_snat(frontends: Iterable[Frontend], family: Family) -> None:
    for frontend in frontends:
        if _needs_snat(frontend):
            raise LbModelError(
                f"SNAT needs a source address and this node has none of {family}",
                reason="NoSnatAddress",
                where=f"{frontend.owner}: {frontend.key}" if frontend.owner else str(frontend.key),
                hint="set the SNAT address, or give the interface an address",
            )

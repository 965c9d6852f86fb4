"""The load balancer's tables made by hand, as `kubebee lb` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kubebee.lb.family import IPV4, IPV6
from kubebee.lb.layout import BackendFlag, BackendValue, FrontendFlag, FrontendValue, NextHop
from kubebee.lb.model import FrontendKey, Prefix, Protocol, parse_address
from kubebee.lb.reading import Tables

WEB = "Service/shop/web:http"
HOP = NextHop(1, bytes.fromhex("0200000000020200000000aa"), 1500)


def key(address: str, port: int = 80, protocol: Protocol = Protocol.TCP) -> FrontendKey:
    return FrontendKey(parse_address(address), port, protocol)


def backend(address: str, port: int, frontend: int, weight: int = 1, flags: int = 0) -> BackendValue:
    return BackendValue(parse_address(address), port, weight, frontend, HOP, BackendFlag.USED | flags)


def tables(
    frontends: Mapping[FrontendKey, FrontendValue],
    backends: Mapping[int, BackendValue],
    names: Mapping[int, str],
    ranges: Mapping[int, Sequence[Prefix]] | None = None,
) -> Tables:
    family = IPV6 if any(len(each.address) == 16 for each in frontends) else IPV4
    found = {number: tuple(of) for number, of in (ranges or {}).items()}
    return Tables(family, frontends, backends, names, found)


def shop() -> Tables:
    """A Service of two ports and two addresses, and a frontend without backends."""
    return tables(
        {
            key("10.96.0.10"): FrontendValue(base=0, size=211, inside_base=0, inside_size=211, id=1),
            key("10.96.0.10", 53, Protocol.UDP): FrontendValue(id=2, affinity=10800),
            key("192.0.2.10"): FrontendValue(
                base=0, size=101, inside_base=101, inside_size=211, id=3, flags=FrontendFlag.SOURCES
            ),
            key("10.96.0.99"): FrontendValue(id=4, flags=FrontendFlag.DROP_OUTSIDE),
        },
        {
            0: backend("10.2.1.2", 8080, 1),
            1: backend("10.2.2.2", 8080, 1, weight=0),
            2: backend("10.2.3.2", 8080, 1, flags=BackendFlag.GONE),
            3: backend("10.2.1.2", 8080, 3),
            4: backend("10.2.2.2", 8080, 3, flags=BackendFlag.NOT_OUTSIDE),
        },
        {
            1: "Service/shop/web:http",
            2: "Service/shop/web:dns",
            3: "Service/shop/web:http",
            4: "ServiceLB/own:none",
        },
        {3: [Prefix(parse_address("192.0.2.0"), 24)]},
    )

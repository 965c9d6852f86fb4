"""Which addresses a neighbour leads to, whether they are a pod's one or a gateway's thousands."""

from __future__ import annotations

import pytest

from kubebee.bpf.neighbours import NeighbourKey
from kubebee.bpf.routes import Route
from kubebee.loader.behind import MANY, Behind, neighbour_of

GATEWAY, POD = bytes((10, 0, 0, 1)), bytes((10, 244, 0, 5))


def route(neighbour: bytes) -> Route:
    return Route(ifindex=2, neighbour=neighbour, mtu=0, source=b"", local=False)


def filled(number: int) -> tuple[Behind, dict[bytes, Route | None]]:
    """Addresses behind the gateway, and a pod."""
    routes: dict[bytes, Route | None] = {
        bytes((10, 1, i >> 8, i & 255)): route(GATEWAY) for i in range(number)
    }
    routes |= {POD: route(POD), b"none": None}
    behind = Behind()
    for address, way in routes.items():
        if way is not None:
            behind.add(neighbour_of(way), address)
    return behind, routes


@pytest.mark.parametrize("number", [1, MANY, MANY + 1, 4 * MANY])
def test_all_of_them_are_found_however_many_there_are(number: int) -> None:
    behind, routes = filled(number)
    expected = {address for address, way in routes.items() if way == route(GATEWAY)}
    found = behind.addresses([neighbour_of(route(GATEWAY))], routes)
    assert (set(found), len(found)) == (expected, number)
    assert behind.addresses([neighbour_of(route(POD))], routes) == [POD]
    assert len(behind.addresses(list(behind), routes)) == number + 1


@pytest.mark.parametrize("number", [1, 4 * MANY])
def test_a_neighbour_without_addresses_is_forgotten(number: int) -> None:
    behind, routes = filled(number)
    key = neighbour_of(route(GATEWAY))
    for address in [address for address, way in routes.items() if way == route(GATEWAY)]:
        assert key in behind
        behind.remove(key, address)
    assert key not in behind
    assert list(behind) == [NeighbourKey(2, POD)]

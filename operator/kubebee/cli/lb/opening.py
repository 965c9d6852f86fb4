"""Opening the maps of an instance's load balancer, running or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf.features import is_bpffs
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError
from kubebee.lb.family import FAMILIES
from kubebee.lb.reading import Tables, read_tables
from kubebee.loader.pins import PinRoot
from kubebee.planner.plan import LbUnit


class NoLoadBalancerError(KubebeeError):
    """Nothing of a load balancer is pinned."""

    reason = "NoLoadBalancer"


@dataclass(frozen=True)
class Balancer:
    """Open maps, and what they hold at one moment.

    Attributes:
        tables: of each family that something is served of.
    """

    pins: PinRoot
    maps: Mapping[str, Map]
    tables: tuple[Tables, ...]

    def again(self) -> Balancer:
        """What they hold now."""
        return Balancer(self.pins, self.maps, tuple(read_tables(self.maps)))


@contextlib.contextmanager
def open_balancer(bpffs: Path) -> Iterator[Balancer]:
    """The load balancer of an instance.

    Args:
        bpffs: where the instance pins.

    Raises:
        NoLoadBalancerError: there is none, or pins can't be seen.
        BpfError: a map can't be read.
    """
    root = PinRoot(bpffs)
    if not is_bpffs(bpffs) or (root.root.exists() and not os.access(root.root, os.R_OK | os.X_OK)):
        raise NoLoadBalancerError(
            "no BPF file system that could be read is mounted there",
            reason="BpffsMissing",
            where=str(bpffs),
            hint="run as root, or name the one that kubebee uses by --bpffs",
        )
    pinned = root.maps_of(LbUnit.key)
    if not any(family.present(pinned) for family in FAMILIES):
        raise NoLoadBalancerError(
            "no load balancer is pinned here",
            where=str(bpffs),
            hint="apply a ServiceLB; `kubebee status` says whether one runs, --bpffs names another instance",
        )
    with contextlib.ExitStack() as stack:
        maps = {name: stack.enter_context(Map.from_pin(paths[-1])) for name, paths in pinned.items()}
        yield Balancer(root, maps, tuple(read_tables(maps)))

"""What interfaces can do for ServiceLB: the user-space half of templates/include/lb_dev.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.lb.layout import pack_device, u32

MAP = "kb_lb_devs"


@dataclass(frozen=True, slots=True)
class Device:
    """An interface.

    Attributes:
        flags: of DevFlag.
        snat_source, snat_source6: source address towards SNAT backends behind it; b"": that of the settings.
    """

    flags: int = 0
    snat_source: bytes = b""
    snat_source6: bytes = b""


def write(table: Map, wanted: Mapping[int, Device]) -> None:
    """Make the map say exactly this, by ifindex; it is small, and written only where it differs.

    Raises:
        BpfError: the map refused a write.
    """
    packed = {
        u32(ifindex): pack_device(device.flags, device.snat_source, device.snat_source6)
        for ifindex, device in wanted.items()
    }
    present = dict(table.items())
    for key in present.keys() - packed.keys():
        table.delete(key)
    for key, value in packed.items():
        if present.get(key) != value:
            table.update(key, value)

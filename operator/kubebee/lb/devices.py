"""What interfaces can do for ServiceLB: the user-space half of templates/include/lb_dev.h."""

from __future__ import annotations

from collections.abc import Mapping

from kubebee.bpf.map import Map
from kubebee.lb.layout import DevFlag, u32

MAP = "kb_lb_devs"


def write(table: Map, wanted: Mapping[int, DevFlag]) -> None:
    """Make the map say exactly this, by ifindex; it is small, and written only where it differs.

    Raises:
        BpfError: the map refused a write.
    """
    packed = {u32(ifindex): u32(flags) for ifindex, flags in wanted.items()}
    present = dict(table.items())
    for key in present.keys() - packed.keys():
        table.delete(key)
    for key, value in packed.items():
        if present.get(key) != value:
            table.update(key, value)

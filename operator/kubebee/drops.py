"""Drop reasons of the built-in stages: names and counts."""

from __future__ import annotations

import functools
import importlib.resources
import re
import sys
from collections.abc import Mapping

from kubebee.bpf.map import Map

MAP = "kb_drops"
_REASON = re.compile(r"\bKB_DROP_(\w+) = (\d+),")


@functools.cache
def reasons() -> Mapping[int, str]:
    """Return the name of each reason in snake case, as templates/include/drop_reason.h declares them."""
    header = importlib.resources.files("kubebee_templates").joinpath("include/drop_reason.h").read_text()
    names = {int(number): name.lower() for name, number in _REASON.findall(header)}
    return {number: name for number, name in names.items() if name not in ("none", "max")}


def read(maps: Mapping[str, Map]) -> dict[str, int]:
    """Return the packets that one stage dropped for each reason, summed over CPUs.

    Raises:
        BpfError: if the map cannot be read.
    """
    counts = {}
    for number, name in reasons().items():
        values = maps[MAP].lookup_percpu(number.to_bytes(4, sys.byteorder))
        counts[name] = sum(int.from_bytes(value, sys.byteorder) for value in values)
    return counts

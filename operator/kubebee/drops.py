"""Drop reasons of the built-in stages: names and counts."""

from __future__ import annotations

import functools
import importlib.resources
import re
import sys
from collections.abc import Mapping

from kubebee.bpf.map import Map

MAP = "kb_drops"
_REASON = re.compile(r"\bKB_DROP_(\w+) = (\d+),(?:\s*/\* (.+?) \*/)?")


@functools.cache
def _declared() -> tuple[tuple[str, int, str], ...]:
    """Name, number and explanation of each, as templates/include/drop_reason.h declares them."""
    header = importlib.resources.files("kubebee_templates").joinpath("include/drop_reason.h").read_text()
    found = ((name.lower(), int(number), text) for name, number, text in _REASON.findall(header))
    return tuple(each for each in found if each[0] not in ("none", "max"))


@functools.cache
def reasons() -> Mapping[int, str]:
    """Return the name of each reason in snake case."""
    return {number: name for name, number, _ in _declared()}


def explain(reason: str) -> str:
    """Return what a reason means, "" if it is not known."""
    return next((text for name, _, text in _declared() if name == reason), "")


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

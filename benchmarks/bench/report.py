"""A benchmark's result: one JSON object on standard output.

::

    {"name": ..., "machine": {"kernel", "cpus", "cpu_model", "memory_gib"}, "aim": ..., "runs": ...,
     "figures": {"<case>": {"unit", "median", "min", "max"[, "lower_quartile", "upper_quartile"]
                            [, "aim", "met"]}}, "notes": {...}}

A figure that was taken once has equal median, min and max; quartiles need 20 values.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Number = float | int

_ENOUGH_FOR_QUARTILES = 20


@dataclass(frozen=True)
class Figure:
    """What was measured, each run's value.

    Attributes:
        unit: of the values, e.g. "ms".
        values: one per run.
        aim: what the median shall not exceed; None where nothing is promised.
    """

    unit: str
    values: Sequence[Number]
    aim: Number | None = None

    def document(self) -> dict[str, object]:
        """As it is in the JSON."""
        summary: dict[str, object] = {
            "unit": self.unit,
            "median": _short(statistics.median(self.values)),
            "min": _short(min(self.values)),
            "max": _short(max(self.values)),
        }
        if len(self.values) >= _ENOUGH_FOR_QUARTILES:
            lower, _, upper = statistics.quantiles(self.values)
            summary |= {"lower_quartile": _short(lower), "upper_quartile": _short(upper)}
        if self.aim is not None:
            summary |= {"aim": self.aim, "met": statistics.median(self.values) <= self.aim}
        return summary


@dataclass
class Report:
    """All figures of one benchmark.

    Attributes:
        aim: what is wanted, in words.
        runs: how many values a figure has, unless it says otherwise.
        notes: what a reader must know to judge the figures.
    """

    name: str
    aim: str
    runs: int
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: dict[str, Number | str] = field(default_factory=dict)

    def print(self) -> None:
        """Write the JSON to standard output."""
        document = {
            "name": self.name,
            "machine": machine(),
            "aim": self.aim,
            "runs": self.runs,
            "figures": {name: figure.document() for name, figure in self.figures.items()},
            "notes": self.notes,
        }
        print(json.dumps(document, indent=2))


def machine() -> Mapping[str, object]:
    """What the figures depend on most."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu_model": model,
        "memory_gib": round(memory / 2**30, 1),
    }


def _short(value: Number) -> Number:
    return round(value, 3) if isinstance(value, float) else value

"""What is counted of functions: how a run counter looks, and readings of it.

Nothing here needs a loader: counters are read beside a running one and after it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.bpf.program import ProgInfo
from kubebee.planner.plan import ResourceKey

RUN_MAP = "kb_run"
_RUN = struct.Struct("=QQQ6Q")  # struct kb_run in templates/include/chain.h
RUN_VALUE_SIZE = _RUN.size
XDP_VERDICTS = ("ABORTED", "DROP", "PASS", "TX", "REDIRECT")
WENT_ON = "NEXT"
"""Stands beside the XDP verdicts for a stage that left the packet to the next one."""
_VERDICTS = (*XDP_VERDICTS, WENT_ON)
_KEY_0 = bytes(4)
MAX_FRONTENDS = 1_000
"""With more frontends their counters are not read: each backend costs a look-up."""


@dataclass(frozen=True, slots=True)
class FunctionReading:
    """Runs of one function since it was loaded; those of XDP go on through new versions.

    Attributes:
        type: attach type of the API.
        points: where it is attached now.
        runs: of XDP always; of others only while kernel statistics are on (`run --enable-stats`), else 0.
        mean_ns: per run, None if no run was timed. XDP: of one run in 64, clock reads included.
        verdicts: XDP only: runs by verdict, `WENT_ON` among them; empty elsewhere.
    """

    key: ResourceKey
    function: str
    type: str
    points: tuple[str, ...]
    runs: int
    mean_ns: float | None
    verdicts: dict[str, int]

    @property
    def seconds(self) -> float:
        """Time spent in all runs, extrapolated from the timed ones."""
        return self.runs * (self.mean_ns or 0.0) / 1e9


@dataclass(frozen=True, slots=True)
class DropsReading:
    """Packets that a built-in stage dropped, by reason (templates/include/drop_reason.h)."""

    key: ResourceKey
    packets: dict[str, int]


def of_program(
    key: ResourceKey, function: str, type_: str, points: tuple[str, ...], info: ProgInfo
) -> FunctionReading:
    """What the kernel counted of a program."""
    mean = info.run_time_ns / info.run_cnt if info.run_cnt else None
    return FunctionReading(key, function, type_, points, info.run_cnt, mean, {})


def of_stage(
    key: ResourceKey, function: str, type_: str, points: tuple[str, ...], run_map: Map
) -> FunctionReading:
    """What the dispatcher counted of a stage, see templates/include/chain.h."""
    per_cpu = [_RUN.unpack(value) for value in run_map.lookup_percpu(_KEY_0)]
    runs, timed, nanoseconds, *verdicts = (sum(column) for column in zip(*per_cpu, strict=True))
    return FunctionReading(
        key=key,
        function=function,
        type=type_,
        points=points,
        runs=runs,
        mean_ns=nanoseconds / timed if timed else None,
        verdicts=dict(zip(_VERDICTS, verdicts, strict=True)),
    )

"""ServiceLB at size: from frontend objects to maps, one backend changed, adoption after a restart.

Prints JSON. Needs root. Maps are anonymous and go with the process.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from bench.report import Figure, Report
from kubebee.bpf.constants import MapFlag, MapType
from kubebee.bpf.map import Map
from kubebee.lb.layout import BACKEND_BYTES, CONFIG_BYTES, FRONTEND_BYTES, KEY_BYTES, ROW_BYTES, SOURCE_BYTES
from kubebee.lb.model import Backend, Frontend, FrontendKey, LbConfig, Protocol, merge
from kubebee.lb.sync import LbState, SyncReport

FRONTENDS = 10_000
BACKENDS = 10
ROWS = FRONTENDS * 64 + 64 * 1024
T = TypeVar("T")
CONFIG = LbConfig(snat_address=bytes((10, 0, 0, 1)))


def make_maps() -> dict[str, Map]:
    def array(name: str, value_size: int, entries: int, flags: int = 0) -> Map:
        return Map.create(MapType.ARRAY, 4, value_size, entries, name, flags)

    return {
        "kb_lb_fe": Map.create(MapType.HASH, KEY_BYTES[4], FRONTEND_BYTES, 4 * FRONTENDS, "kb_lb_fe"),
        "kb_lb_slots": array("kb_lb_slots", ROW_BYTES, ROWS, MapFlag.MMAPABLE),
        "kb_lb_be": array("kb_lb_be", BACKEND_BYTES[4], 2 * FRONTENDS * BACKENDS),
        "kb_lb_be_stat": Map.create(MapType.PERCPU_ARRAY, 4, 24, 2 * FRONTENDS * BACKENDS, "kb_lb_be_stat"),
        "kb_lb_fe_stat": array("kb_lb_fe_stat", 24, 2 * FRONTENDS),
        "kb_lb_cfg": array("kb_lb_cfg", CONFIG_BYTES, 1),
        "kb_lb_sources": Map.create(
            MapType.LPM_TRIE, SOURCE_BYTES[4], 1, 1024, "kb_lb_sources", MapFlag.NO_PREALLOC
        ),
    }


def frontend_key(number: int) -> FrontendKey:
    return FrontendKey((0x0A600000 + number).to_bytes(4), 80, Protocol.TCP)


def make_frontends() -> list[Frontend]:
    return [
        Frontend(
            frontend_key(i),
            tuple(Backend((0x0A800000 + i * BACKENDS + j).to_bytes(4), 8080) for j in range(BACKENDS)),
            owner=f"ServiceLB/s{i}",
        )
        for i in range(FRONTENDS)
    ]


def timed(call: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    maps = make_maps()
    objects = make_frontends()
    merge_seconds, desired = timed(lambda: merge(objects))
    state = LbState.adopt(maps)
    first, report = timed(lambda: state.apply(maps, desired, CONFIG))
    assert report.added == FRONTENDS, report
    noop, _ = timed(lambda: state.apply(maps, desired, CONFIG))
    copy = merge(make_frontends())
    noop_equal, report = timed(lambda: state.apply(maps, copy, CONFIG))
    assert not report.changed

    changes = []
    for i in range(9):
        key = frontend_key(i * 997)
        old = desired[key]
        desired = desired | {
            key: replace(old, backends=old.backends[1:])
        }  # what was applied is never changed
        seconds, report = timed(lambda wanted=desired: state.apply(maps, wanted, CONFIG))  # type: ignore[misc]
        assert report.changed == 1, report
        changes.append(seconds)
    adoption, adopted = timed(lambda: LbState.adopt(maps))
    after_adoption, report = timed(lambda: adopted.apply(maps, desired, CONFIG))
    assert report == SyncReport(), report

    aim = "the part of lb_manifest_scale from model to map, with the kernel's maps but no loader"
    report = Report("servicelb_scale", aim, 1)
    report.figures = {
        "merge": Figure("s", [merge_seconds]),
        "first_apply": Figure("s", [first]),
        "noop_same_objects": Figure("ms", [noop * 1e3]),
        "noop_equal_objects": Figure("ms", [noop_equal * 1e3]),
        "one_backend_removed": Figure("ms", [seconds * 1e3 for seconds in changes], 20),
        "adopt": Figure("s", [adoption]),
        "apply_after_adopt": Figure("ms", [after_adoption * 1e3]),
    }
    report.notes = {
        "frontends": FRONTENDS,
        "backends_each": BACKENDS,
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    report.print()


if __name__ == "__main__":
    main()

"""What maps take, and when that is too much for a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubebee.bpf.constants import MapType
from kubebee.loader import map_memory
from kubebee.loader.facts import MapSchema
from kubebee.loader.map_memory import MapMemoryError, check, map_bytes

MIB = 1 << 20


def schema(kind: MapType, entries: int, name: str = "flows", key: int = 16, value: int = 22) -> MapSchema:
    return MapSchema(name, kind, key, value, entries, 0, internal=False, constant=False, layout="")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (MapType.HASH, 1000 * (48 + 16 + 24) + 1024 * 16),
        (MapType.ARRAY, 1000 * 24),
        (MapType.PERCPU_ARRAY, 1000 * (8 + 4 * 24)),
        (MapType.LPM_TRIE, 1000 * (40 + 16 + 24)),
        (MapType.RINGBUF, 0),
    ],
)
def test_a_maps_memory_is_that_of_its_entries_and_what_the_kernel_adds(kind: MapType, expected: int) -> None:
    assert map_bytes(schema(kind, 1000), 4) == expected


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with 100 MiB; the folder may get a cgroup's limit."""
    (tmp_path / "meminfo").write_text(f"MemTotal:  {100 * 1024} kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(map_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(map_memory, "_CGROUP_LIMIT", tmp_path / "memory.max")
    return tmp_path


def test_half_of_the_memory_is_not_too_much_and_more_is(node: Path) -> None:
    fits = schema(MapType.ARRAY, 50 * MIB // 8, value=8)
    check([fits], {}, "spec.limits")
    with pytest.raises(MapMemoryError) as caught:
        check([fits, schema(MapType.ARRAY, MIB, "more", value=8)], {}, "spec.limits")
    assert caught.value.message == (
        "the maps would take 58 MiB, more than 1/2 of the 100 MiB that there are;"
        " the largest is flows with 50 MiB"
    )
    assert (caught.value.reason, caught.value.where) == ("NotEnoughMemory", "spec.limits")


def test_a_map_that_several_objects_have_counts_once_and_by_the_size_it_gets(node: Path) -> None:
    many = schema(MapType.ARRAY, 40 * MIB // 8, value=8)
    check([many, many], {}, "spec.limits")
    with pytest.raises(MapMemoryError):
        check([many], {"flows": 60 * MIB // 8}, "spec.limits")


def test_a_cgroups_limit_counts_where_it_is_less(node: Path) -> None:
    many = schema(MapType.ARRAY, 40 * MIB // 8, value=8)
    (node / "memory.max").write_text("max\n")
    check([many], {}, "spec.limits")
    (node / "memory.max").write_text(f"{64 * MIB}\n")
    with pytest.raises(MapMemoryError, match="of the 64 MiB"):
        check([many], {}, "spec.limits")


def test_where_nothing_is_known_nothing_is_refused(node: Path) -> None:
    (node / "meminfo").unlink()
    check([schema(MapType.ARRAY, 1 << 30)], {}, "spec.limits")

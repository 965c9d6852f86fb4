"""Maps hold what is written, for every way of writing and reading."""

from __future__ import annotations

import os
import struct

import pytest

from kubebee.bpf.constants import MapFlag, MapType, UpdateFlag
from kubebee.bpf.map import Map, possible_cpus, split_percpu
from kubebee.bpf.syscall import BpfError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def key(number: int) -> bytes:
    return struct.pack("=I", number)


def value(number: int) -> bytes:
    return struct.pack("=Q", number)


def test_info_tells_what_was_created() -> None:
    with Map.create(MapType.HASH, 4, 8, 10, "kb_test", MapFlag.NO_PREALLOC) as table:
        info = table.info
        assert (info.type, info.key_size, info.value_size, info.max_entries) == (MapType.HASH, 4, 8, 10)
        assert (info.name, info.map_flags) == ("kb_test", MapFlag.NO_PREALLOC)
        with Map.from_id(info.id) as again:
            assert again.info == info


def test_update_lookup_delete() -> None:
    with Map.create(MapType.HASH, 4, 8, 10) as table:
        assert table.lookup(key(1)) is None
        table.update(key(1), value(5))
        assert table.lookup(key(1)) == value(5)
        assert table.delete(key(1))
        assert not table.delete(key(1))


def test_a_full_map_says_so() -> None:
    with Map.create(MapType.HASH, 4, 8, 1, "kb_full") as table:
        table.update(key(1), value(1))
        with pytest.raises(BpfError) as caught:
            table.update(key(2), value(2))
        assert caught.value.reason == "E2BIG"
        assert "kb_full" in str(caught.value)
        with pytest.raises(BpfError) as caught:
            table.update(key(1), value(2), UpdateFlag.NOEXIST)
        assert caught.value.errno_name == "EEXIST"


def test_wrong_sizes_never_reach_the_kernel() -> None:
    with Map.create(MapType.HASH, 4, 8, 1) as table:
        with pytest.raises(ValueError, match="key of 3 bytes, needs 4"):
            table.lookup(b"abc")
        with pytest.raises(ValueError, match="value of 1 bytes, needs 8"):
            table.update(key(1), b"x")


@pytest.mark.parametrize("map_type", [MapType.HASH, MapType.LRU_HASH])
def test_ten_thousand_entries_go_in_and_out_in_batches(map_type: MapType) -> None:
    count = 10_000
    with Map.create(map_type, 4, 8, 4 * count) as table:
        table.update_batch(b"".join(map(key, range(count))), b"".join(map(value, range(count))), count)
        assert dict(table.items()) == {key(i): value(i) for i in range(count)}
        assert set(table.keys()) == {key(i) for i in range(count)}
        table.delete_batch(b"".join(map(key, range(0, count, 2))), count // 2)
        assert {k for k, _ in table.items()} == {key(i) for i in range(1, count, 2)}


def test_deleting_a_batch_passes_over_absent_keys() -> None:
    with Map.create(MapType.HASH, 4, 8, 10) as table:
        for i in (1, 3):
            table.update(key(i), value(i))
        table.delete_batch(key(1) + key(2) + key(3), 3)
        assert list(table.items()) == []


def test_a_trie_lists_its_prefixes() -> None:
    with Map.create(MapType.LPM_TRIE, 8, 4, 10, flags=MapFlag.NO_PREALLOC) as trie:
        prefixes = {struct.pack("=I4B", 8, 10, 0, 0, 0), struct.pack("=I4B", 24, 10, 1, 2, 0)}
        for prefix in prefixes:
            trie.update(prefix, b"abcd")
        assert {k for k, _ in trie.items()} == prefixes


def test_per_cpu_values_have_a_slot_for_every_possible_cpu() -> None:
    with Map.create(MapType.PERCPU_HASH, 4, 4, 4) as table:
        slots = [struct.pack("=I4x", cpu) for cpu in range(possible_cpus())]
        table.update(key(1), b"".join(slots))
        assert table.lookup_percpu(key(1)) == [struct.pack("=I", cpu) for cpu in range(possible_cpus())]
        assert [split_percpu(v, 4) for _, v in table.items()] == [table.lookup_percpu(key(1))]
        assert table.lookup_percpu(key(2)) == []


def test_memory_of_an_array_is_shared_with_its_values() -> None:
    with Map.create(MapType.ARRAY, 4, 4, 10, flags=MapFlag.MMAPABLE) as array, array.mmap() as memory:
        memory[8 * 3 : 8 * 3 + 4] = struct.pack("=I", 77)
        assert array.lookup(key(3)) == struct.pack("=I", 77)


def test_a_frozen_map_refuses_writes() -> None:
    with Map.create(MapType.ARRAY, 4, 4, 1) as array:
        array.freeze()
        with pytest.raises(BpfError) as caught:
            array.update(key(0), b"abcd")
        assert caught.value.reason == "EPERM"


def test_maps_of_maps_take_inner_maps() -> None:
    with (
        Map.create(MapType.HASH, 4, 8, 10) as inner,
        Map.create(MapType.ARRAY_OF_MAPS, 4, 4, 2, inner_map_fd=inner.fd) as outer,
    ):
        outer.update(key(0), struct.pack("=I", inner.fd))
        assert outer.lookup(key(0)) == struct.pack("=I", inner.info.id)


def test_an_id_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BpfError) as caught:
        Map.from_id(0xFFFFFFF0)
    assert caught.value.reason == "ENOENT"

"""What a node says of others' programs: those that last."""

from __future__ import annotations

import asyncio

import pytest

from kubebee.api.v1alpha1.bpfnode import Feature, ForeignProgram
from kubebee.cli import node_board
from kubebee.cli.node_board import NodeBoard, lasting


def foreign(number: int, owner: str = "systemd") -> ForeignProgram:
    return ForeignProgram(id=number, name=f"p{number}", type="CGROUP_SKB", owner=owner)


def test_a_program_is_shown_once_it_was_seen_twice() -> None:
    old, new = foreign(1), foreign(2)
    assert lasting([old], [old], [old, new]) == (old,)
    assert lasting([old], [old, new], [old, new]) == (old, new)


def test_a_program_that_is_gone_is_not_shown() -> None:
    assert lasting([foreign(1)], [foreign(1)], []) == ()


def test_an_owner_that_only_passes_by_changes_nothing() -> None:
    ours, listing = foreign(1), foreign(1, "bpftool")
    assert lasting([ours], [ours], [listing]) == (ours,)
    assert lasting([ours], [listing], [ours]) == (ours,)
    assert lasting([ours], [listing], [listing]) == (listing,)


def test_what_is_shown_changes_every_five_minutes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(
        [(foreign(1),), (foreign(1), foreign(2)), (foreign(1), foreign(2)), (foreign(1), foreign(2))]
    )
    clock = iter([1000.0, 1030.0, 1060.0, 1310.0])
    monkeypatch.setattr(node_board, "foreign_programs", lambda: next(looks))
    monkeypatch.setattr(node_board, "kernel_features", lambda: (Feature(name="TCX", available=True),))
    monkeypatch.setattr(node_board, "monotonic", lambda: next(clock))
    board, shown = NodeBoard(), []
    for _ in range(4):
        assert asyncio.run(board.look())
        shown.append([program.id for program in board.foreign])
    assert shown == [[1], [1], [1], [1, 2]]

"""What a node says of others' programs: those that last."""

from __future__ import annotations

from kubebee.api.v1alpha1.bpfnode import ForeignProgram
from kubebee.cli.node_board import lasting


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

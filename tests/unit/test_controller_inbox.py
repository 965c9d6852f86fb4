"""News of objects come in any order and more than once; the newest is what counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubebee.controller.inbox import FORGOTTEN, Inbox, Key, News

A, B = Key("BpfNode", "", "a"), Key("BpfNode", "", "b")


def test_the_newest_of_each_object_is_taken_once() -> None:
    inbox = Inbox()
    for version in (1, 3, 2):
        inbox.put(News(A, version, version))
    inbox.put(News(B, 1, "b"))
    assert inbox.take() == [News(A, 3, 3), News(B, 1, "b")]
    assert inbox.take() == []


def test_what_is_known_is_no_news() -> None:
    inbox = Inbox()
    inbox.put(News(A, 3, "a"))
    inbox.take()
    inbox.put(News(A, 3, "a"))
    inbox.put(News(A, 2, "older"))
    assert len(inbox) == 0


def test_late_news_do_not_revive_what_is_gone() -> None:
    inbox = Inbox()
    inbox.put(News(A, 1, "a"))
    inbox.put(News(A, 3, None))
    inbox.put(News(A, 2, "late"))
    assert inbox.take() == [News(A, 3, None)]
    inbox.put(News(A, 4, "made anew"))
    assert inbox.take() == [News(A, 4, "made anew")]


def test_what_was_never_there_is_not_news_when_gone() -> None:
    inbox = Inbox()
    inbox.put(News(A, 1, None))
    assert inbox.take() == []


def test_a_list_tells_what_is_gone_but_not_of_what_came_after_it() -> None:
    inbox = Inbox()
    inbox.put(News(A, 5, "a"))
    inbox.put(News(B, 11, "b, made after the list"))
    other = Key("Source", "default", "x")
    inbox.put(News(other, 1, {}))
    inbox.take()
    inbox.put_listed("BpfNode", "", [], 10)
    assert inbox.take() == [News(A, 10, None)]
    assert inbox.there(B)
    assert inbox.there(other)


def test_a_deletion_of_our_own_has_no_version_and_is_believed() -> None:
    inbox = Inbox()
    inbox.put(News(A, 5, "a"))
    inbox.put(News(A, 0, None))
    inbox.put(News(A, 5, "late"))
    assert inbox.take() == [News(A, 0, None)]


def test_whoever_listens_again_starts_over() -> None:
    inbox = Inbox()
    inbox.put(News(A, 5, "a"))
    inbox.forget(A)
    assert inbox.newer(A, 5)
    inbox.put(News(A, 5, "a"))
    assert inbox.take() == [News(A, 5, "a")]


def test_what_is_gone_is_not_remembered_for_ever() -> None:
    inbox = Inbox()
    for number in range(FORGOTTEN + 1):
        key = Key("Bundle", "", str(number))
        inbox.put(News(key, 1, "x"))
        inbox.put(News(key, 2, None))
    assert inbox.newer(Key("Bundle", "", "0"), 1)
    assert not inbox.newer(Key("Bundle", "", "1"), 1)


@given(st.permutations(range(1, 9)), st.integers(0, 8))
def test_whatever_the_order_the_end_is_the_same(order: list[int], taken: int) -> None:
    """Version 8 is a deletion, 5 too; it may be taken in between."""
    inbox, last = Inbox(), None
    for number, version in enumerate(order):
        inbox.put(News(A, version, None if version in (5, 8) else version))
        if number == taken:
            last = next(iter(inbox.take()), last)
    last = next(iter(inbox.take()), last)
    assert last is None or last.content is None
    assert not inbox.there(A)


def test_waiting_ends_with_news() -> None:
    inbox = Inbox()
    inbox.put(News(A, 1, "a"))
    inbox.wait(60)
    assert len(inbox) == 1

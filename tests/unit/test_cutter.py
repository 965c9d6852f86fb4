"""What is said where sockets of backends that left can't be ended, and when they are looked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kubebee.bpf import features, netns
from kubebee.bpf.features import Feature
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError
from kubebee.lb.cut import CutReport
from kubebee.lb.reports import Left
from kubebee.loader import cutter
from kubebee.loader.compiled import Compiler
from kubebee.loader.cutter import Cutter, notes

LEFT = Left(7, bytes((10, 0, 0, 1)), 53)
SOCKETS = {"kb_lb_sk": cast("Map", SimpleNamespace(info=SimpleNamespace(id=5)))}


def lacking(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def feature(name: str) -> Feature:
        return Feature(name, name not in names, f"no {name}" if name in names else "")

    monkeypatch.setattr(features, "feature", feature)


def test_where_nothing_is_missing_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch)
    assert notes(SOCKETS) == []


@pytest.mark.parametrize("name", ["sock_destroy", "netns"])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    lacking(monkeypatch, name)
    (note,) = notes(SOCKETS)
    assert f"no {name}" in note


def test_without_socket_programs_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "sock_destroy", "netns")
    assert notes({}) == []


class Program:
    """Iterators that end nothing, and say what they were asked for."""

    def __init__(self, *reports: CutReport) -> None:
        self.asked: list[Sequence[Left]] = []
        self._reports = list(reports)
        self.closed = False

    def cut(self, left: Sequence[Left]) -> CutReport:
        self.asked.append(left)
        return self._reports.pop(0) if self._reports else CutReport()

    def close(self) -> None:
        self.closed = True


class Clang:
    """A compiler that fails so many times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    async def elf(self, _bundle: object) -> tuple[bytes, float, bool, tuple[str, ...]]:
        if self.failures:
            self.failures -= 1
            raise KubebeeError("no memory")
        return b"", 0.0, False, ()


def run(
    monkeypatch: pytest.MonkeyPatch,
    program: Program,
    script: Callable[[Cutter], Awaitable[None]],
    clang: Clang | None = None,
) -> list[str]:
    """Run a cutter over `program` while `script` goes on; returns what was told."""
    lacking(monkeypatch)
    monkeypatch.setattr(cutter, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(cutter, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(cutter.SocketCut, "load", lambda _elf, _maps: program)
    told: list[str] = []

    async def both() -> None:
        made = Cutter(cast("Compiler", clang or Clang()), told.append)
        working = asyncio.create_task(made.run())
        try:
            await asyncio.wait_for(script(made), 10)
        finally:
            working.cancel()

    asyncio.run(both())
    return told


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 (run() has the deadline)
        await asyncio.sleep(0.001)


def test_clients_are_looked_for_at_once_and_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()

    async def script(made: Cutter) -> None:
        made.follow(SOCKETS, [LEFT])
        await until(lambda: len(program.asked) == 2)

    run(monkeypatch, program, script)
    assert program.asked == [[LEFT], [LEFT]]


def test_what_left_while_the_compiler_failed_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()

    async def script(made: Cutter) -> None:
        made.follow(SOCKETS, [LEFT])
        await until(lambda: program.asked)

    run(monkeypatch, program, script, Clang(failures=2))
    assert program.asked[0] == [LEFT]


def test_a_reason_for_which_sockets_go_on_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(*(CutReport(1, 2, "no file"),) * 4)

    async def script(made: Cutter) -> None:
        for _ in range(2):
            made.follow(SOCKETS, [LEFT])
            await until(lambda: len(program.asked) % 2 == 0 and program.asked)
        await until(lambda: made.total.cut >= 2)

    told = run(monkeypatch, program, script)
    assert told == ["2 UDP sockets go on though their backend left: no file"]


def test_without_a_load_balancer_the_iterators_are_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program()

    async def script(made: Cutter) -> None:
        made.follow(SOCKETS, [LEFT])
        await until(lambda: program.asked)
        made.rest()
        await until(lambda: program.closed)

    run(monkeypatch, program, script)
    assert program.closed


def test_files_of_network_namespaces_are_found_by_inode() -> None:
    own = netns.own_inode()
    assert netns.find({own, 1})[own].stat().st_ino == own
    assert 1 not in netns.find({own, 1})

"""What every test may use (an isolated run, network namespaces, a private bpffs), and the guard on skips."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab
from lab.netns import Namespace, private_mounts, remove_leftovers, run

pytest_plugins = ["support.cluster_session"]
_SKIPS = pytest.StashKey["_Skips"]()


@dataclass(frozen=True)
class AllowedSkip:
    """One line of allowed_skips.txt: which tests may skip, with which reason, and why that is fine."""

    tests: str
    reason: str
    why: str

    def covers(self, nodeid: str, reason: str) -> bool:
        """Whether a skip is this one: a glob over the test's id, words that the reason holds."""
        return fnmatch.fnmatch(nodeid, self.tests) and self.reason in reason


def read_allowed_skips(text: str) -> list[AllowedSkip]:
    """Lines ``glob | words of the reason | why``; blank lines and ``#`` lines are comments."""
    lines = (line.strip() for line in text.splitlines())
    fields = ([field.strip() for field in line.split("|")] for line in lines if line and line[0] != "#")
    return [AllowedSkip(*three) for three in fields]


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a mount namespace of its own: what tests mount goes with it, even after kill -9."""
    config.stash[_SKIPS] = skips = _Skips()
    config.pluginmanager.register(skips)
    if os.geteuid() == 0:
        private_mounts()
        remove_leftovers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` skip without root."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


class _Skips:
    """Remembers skips of tests and of whole modules; of worker processes the first process hears."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module's."""
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self.found.append((report.nodeid, str(reason)))


def _unexpected_skips(config: pytest.Config) -> list[tuple[str, str]]:
    allowed = read_allowed_skips((Path(__file__).parent / "allowed_skips.txt").read_text())
    return [skip for skip in config.stash[_SKIPS].found if not any(entry.covers(*skip) for entry in allowed)]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skip that nobody listed fails the run: a test that silently stops running protects nothing."""
    if exitstatus == pytest.ExitCode.OK and _unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the skips that failed the run."""
    for nodeid, reason in _unexpected_skips(config):
        terminalreporter.write_line(f"skip not in tests/allowed_skips.txt: {nodeid}: {reason}", red=True)


@pytest.fixture
def netns() -> Iterator[Callable[[str], Namespace]]:
    """Make network namespaces by role (``netns("client")``); all go after the test."""
    made: list[Namespace] = []

    def make(role: str = "node") -> Namespace:
        made.append(Namespace(role))
        return made[-1]

    yield make
    for namespace in made:
        namespace.delete()


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of this test alone; its pins go with it."""
    path = tmp_path / "bpffs"
    path.mkdir()
    run(["mount", "-t", "bpf", "bpf", str(path)])
    yield path
    run(["umount", "--lazy", str(path)])


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The lab of client, node and two backends, made for this test (a third of a second)."""
    with Lab() as made:
        yield made

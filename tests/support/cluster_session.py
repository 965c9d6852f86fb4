"""The cluster that tests share: real, of two nodes, brought up once for the run, with kubebee on request.

By default it is one of its own, removed at the end. With ``KUBEBEE_CLUSTER=keep`` it is that of
``make cluster``, brought up if need be and left as it is; with ``KUBEBEE_CLUSTER=NAME:NUMBER``, another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster, ClusterSpec
from cluster.prepare import prepare
from conformance import build as build_suite
from helm.binaries import build as build_helm
from images.build import build as build_images
from support.controllers import NAMESPACE, Bare
from support.installed import Installed
from support.site import EXEC, program, tracer

_TESTS = Path(__file__).parents[1]
_FOLDERS = (_TESTS / "cluster", _TESTS / "conformance")
_OWN = ClusterSpec("kbe", 14)
_TIMEOUT_S = 600
_HELM = 3
_COLLECTED_FOR = pytest.StashKey[BaseException]()


def _chosen(told: str) -> tuple[ClusterSpec, bool]:
    """The cluster to use, and whether it is left at the end."""
    if not told:
        return _OWN, False
    if told == "keep":
        return ClusterSpec(), True
    name, _, number = told.partition(":")
    return ClusterSpec(name, int(number or 0)), True


SPEC, KEEP = _chosen(os.environ.get("KUBEBEE_CLUSTER", ""))


def _on_cluster(item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(folder) for folder in _FOLDERS)


def _fixtures(item: pytest.Item) -> tuple[str, ...]:
    return tuple(getattr(item, "fixturenames", ()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests on the cluster the time that it takes to come up, or to boot a node."""
    for item in items:
        if _on_cluster(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the cluster needs before the first test, as it may take minutes and no test's time."""
    items = [item for item in session.items if _on_cluster(item)]
    if items and not session.config.option.collectonly:
        programs = prepare(SPEC.home)
        wanted = {name for item in items for name in _fixtures(item)}
        if "installed" in wanted:
            build_helm(_HELM)
            build_images()
        if "suite" in wanted:
            build_suite(programs)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Collect logs and descriptions after a failure: when somebody reads of it the cluster is gone."""
    yield
    if (
        call.excinfo is None
        or call.excinfo.errisinstance(pytest.skip.Exception)
        or "cluster" not in _fixtures(item)
    ):
        return
    seen = item.session.stash.get(_COLLECTED_FOR, None)
    item.session.stash[_COLLECTED_FOR] = call.excinfo.value
    # A fixture of the session fails every test anew; specs were collected for when their run ended.
    if call.excinfo.value is not seen and not ("spec_results" in _fixtures(item) and call.when == "call"):
        folder = SPEC.home / "failures" / item.nodeid.rpartition("/")[2].replace("::", "-")
        Cluster(SPEC).collect(folder)
        item.add_report_section(call.when, "cluster", f"logs and descriptions: {folder}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, up, with two nodes or more."""
    shared = Cluster(SPEC)
    if not KEEP:
        shared.down()  # what a run that was killed has left
    yield shared.up(nodes=2)
    if not KEEP:
        shared.down()


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[Installed]:
    """kubebee on the cluster, by its chart."""
    release = Installed(cluster, build_helm(_HELM), tuple(image.archive for image in build_images()))
    release.load_images()
    release.install()
    yield release
    if not KEEP:
        release.delete_all()


@pytest.fixture(scope="module")
def loaders(cluster: Cluster, installed: Installed) -> Iterator[Installed]:
    """kubebee with a loader on every node all the time, as a resource selects them: tests need not wait."""
    installed.apply(program("resident", tracer(), EXEC))
    installed.wait_ready("bpfprogram", "resident", nodes=len(cluster.nodes))
    yield installed
    installed.delete_all()


@pytest.fixture
def operator(installed: Installed) -> Iterator[Installed]:
    """kubebee on the cluster, without a resource before the test and after it."""
    yield installed
    installed.delete_all()


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """An API server without nodes, of a file's tests alone."""
    cluster = Cluster(ClusterSpec("kba", 6))
    cluster.down()
    cluster.up_without_nodes()
    try:
        for crd in sorted((_TESTS.parent / "crds").glob("*.yaml")):
            cluster.apply(crd, "--server-side")
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        cluster.kubectl("create", "namespace", NAMESPACE)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def bare(server: Cluster, tmp_path: Path) -> Iterator[Bare]:
    """The API server with two nodes."""
    made = Bare(server, tmp_path)
    made.clear()
    made.add_node("n1")
    made.add_node("n2")
    yield made
    made.clear()

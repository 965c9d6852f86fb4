"""One run of Kubernetes' own tests for all selected specs, with kubebee in kube-proxy's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from cluster import Cluster
from conformance import Spec, Suite, build, give_zones, names, run_specs
from support.cluster_session import SPEC
from support.installed import Installed

_SERVICE_LB = {
    "apiVersion": "kubebee.dev/v1alpha1",
    "kind": "ServiceLB",
    "metadata": {"name": "conformance"},
    "spec": {"services": {"all": True}},
}
_SECONDS_EACH = 180


@pytest.fixture(scope="session")
def suite(cluster: Cluster) -> Suite:
    """The tests, built."""
    return build(cluster.programs)


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest, cluster: Cluster, installed: Installed) -> Iterator[Installed]:
    """Services served by kubebee alone: kube-proxy runs on no node, and has left no rule."""
    if any(item.get_closest_marker("full") for item in _with_spec(request.session)):
        cluster.up(nodes=names.BASELINE_NODES)
        give_zones(cluster)
    for node in cluster.nodes:
        node.kube_proxy_off()
    installed.apply(_SERVICE_LB)
    installed.wait_ready("servicelb", "conformance", nodes=len(cluster.nodes), within=180)
    yield installed
    installed.delete("servicelb", "conformance")


@pytest.fixture(scope="session")
def spec_results(request: pytest.FixtureRequest, suite: Suite, served: Installed) -> Mapping[str, Spec]:
    """What became of each selected spec, by its name."""
    chosen = [item.callspec.params["spec"] for item in _with_spec(request.session)]
    within = _SECONDS_EACH * len(chosen)
    specs = run_specs(suite, served.cluster, chosen, SPEC.home / "conformance", within=within)
    if not all(spec.passed for spec in specs):
        served.cluster.collect(SPEC.home / "failures" / "conformance")
    return {spec.name: spec for spec in specs}


def _with_spec(session: pytest.Session) -> list[pytest.Function]:
    """The selected tests that stand for a spec each."""
    functions = [item for item in session.items if isinstance(item, pytest.Function)]
    return [item for item in functions if "spec_results" in item.fixturenames and hasattr(item, "callspec")]

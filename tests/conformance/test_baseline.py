"""What passes with kube-proxy passes with kubebee in its place: all specs about Services and networks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cluster import Cluster
from conformance import Spec, Suite, list_specs, names

_BASELINE = names.read(names.BASELINE)
_HERE = sorted(set(_BASELINE) - set(names.read(names.SERVICES)))
# The first that runs waits for the whole run, which has a deadline of its own.
pytestmark = [pytest.mark.timeout(0), pytest.mark.full]


def test_each_spec_about_networks_is_in_the_baseline_or_has_a_reason(cluster: Cluster, suite: Suite) -> None:
    matching = list_specs(suite, cluster, names.OF_NETWORKS, names.NOT_OF_NETWORKS)
    assert sorted([*_BASELINE, *names.UNFIT]) == matching


@pytest.mark.parametrize("spec", _HERE, ids=str)
def test_it_passes(spec_results: Mapping[str, Spec], spec: str) -> None:
    if not spec_results[spec].passed:
        pytest.fail(spec_results[spec].account, pytrace=False)

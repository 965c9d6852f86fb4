"""The conformance specs of Services pass with kubebee in kube-proxy's place."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cluster import Cluster
from conformance import Spec, Suite, list_specs, names

_SPECS = names.read(names.SERVICES)
# The first that runs waits for the whole run, which has a deadline of its own.
pytestmark = pytest.mark.timeout(0)


def test_these_are_all_conformance_specs_of_services(cluster: Cluster, suite: Suite) -> None:
    assert list_specs(suite, cluster, names.CONFORMANCE_OF_SERVICES) == _SPECS


@pytest.mark.parametrize("spec", _SPECS)
def test_it_passes(spec_results: Mapping[str, Spec], spec: str) -> None:
    if not spec_results[spec].passed:
        pytest.fail(spec_results[spec].account, pytrace=False)

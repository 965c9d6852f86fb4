"""Kubernetes' own end-to-end tests, built from its module and run against the e2e cluster."""

from conformance.report import Spec
from conformance.specs import give_zones, list_specs, run_specs
from conformance.suite import Suite, build

__all__ = ["Spec", "Suite", "build", "give_zones", "list_specs", "run_specs"]

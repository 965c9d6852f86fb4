"""What is read from a report of Kubernetes' own tests, and how one spec is chosen by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cluster import binaries
from conformance import names, report
from conformance.specs import exactly
from conformance.suite import MODULE


def _entry(state: str, text: str = "works", **more: object) -> dict[str, Any]:
    entry = {
        "ContainerHierarchyTexts": ["[sig-network] Services"],
        "LeafNodeText": text,
        "LeafNodeType": "It",
        "State": state,
        "RunTime": 2_500_000_000,
    }
    return {**entry, **more}


def _report(tmp_path: Path, *entries: dict[str, Any]) -> list[report.Spec]:
    path = tmp_path / "report.json"
    path.write_text(json.dumps([{"SuiteDescription": "suite", "SpecReports": entries}]))
    return report.read(path)


def test_a_spec_has_the_name_that_its_containers_and_it_make(tmp_path: Path) -> None:
    (spec,) = _report(tmp_path, _entry("passed"))
    assert spec.name == "[sig-network] Services works"
    assert spec.passed
    assert spec.seconds == 2.5


def test_specs_that_did_not_run_are_left_out(tmp_path: Path) -> None:
    assert not _report(tmp_path, _entry("skipped"), _entry("pending"))


def test_a_spec_that_finds_the_cluster_unfit_is_told_of(tmp_path: Path) -> None:
    (spec,) = _report(tmp_path, _entry("skipped", Failure={"Message": "needs 3 zones"}))
    assert not spec.passed
    assert "skipped" in spec.account
    assert "needs 3 zones" in spec.account


def test_a_failed_spec_says_why_and_where_and_ends_with_its_log(tmp_path: Path) -> None:
    location = {"FileName": "service.go", "LineNumber": 42}
    failure = {"Message": "no answer", "Location": location}
    log = "\n".join(f"line {number}" for number in range(500))
    (spec,) = _report(tmp_path, _entry("failed", Failure=failure, CapturedGinkgoWriterOutput=log))
    assert not spec.passed
    assert "no answer\nservice.go:42" in spec.account
    assert spec.account.endswith("line 499")
    assert "line 1\n" not in spec.account


def test_a_part_of_the_suite_counts_only_if_it_failed(tmp_path: Path) -> None:
    parts = [_entry(state, "", LeafNodeType="SynchronizedBeforeSuite") for state in ("passed", "failed")]
    (part,) = _report(tmp_path, *parts)
    assert (part.name, part.state) == ("SynchronizedBeforeSuite", "failed")


def test_the_pattern_of_a_name_matches_it_and_none_that_contains_it() -> None:
    name = "[sig-network] Services should (be) up + down? [Conformance]"
    assert re.search(exactly(name), f"Kubernetes e2e suite {name}")
    assert re.search(exactly(name), f"Kubernetes e2e suite {name} ")  # some end with a blank
    assert not re.search(exactly(name), f"Kubernetes e2e suite {name} twice")
    assert not re.search(exactly("Services work"), "Kubernetes e2e suite OtherServices work")


def test_a_list_of_names_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    names.write(path, ["[a] b", "c"], "why")
    assert path.read_text().startswith("# why\n")
    assert names.read(path) == ["[a] b", "c"]


def test_what_the_cluster_is_not_made_for_is_in_no_list() -> None:
    listed = {*names.read(names.BASELINE), *names.read(names.SERVICES)}
    assert not listed & names.UNFIT.keys()


def test_the_suite_is_of_the_version_that_the_cluster_runs() -> None:
    assert MODULE.version == binaries.KUBERNETES.version

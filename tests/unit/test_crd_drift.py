"""The files in the tree are what the models say."""

from __future__ import annotations

from pathlib import Path

from kubebee.api import crd, reference

ROOT = Path(__file__).parents[2]


def test_the_crds_in_the_tree_are_those_of_the_models() -> None:
    assert crd.check(ROOT / "crds") == [], "run `make crds`"


def test_the_reference_in_the_tree_is_that_of_the_models() -> None:
    assert reference.drift(ROOT / "docs" / "reference.md") == [], "run `make crds`"


def test_a_changed_a_missing_and_a_foreign_file_are_told(tmp_path: Path) -> None:
    crd.write(tmp_path)
    assert crd.check(tmp_path) == []
    (tmp_path / "kubebee.dev_bpfnodes.yaml").unlink()
    (tmp_path / "kubebee.dev_servicelbs.yaml").write_text("kind: Other\n")
    (tmp_path / "old.yaml").write_text("")
    assert crd.check(tmp_path) == [
        "kubebee.dev_servicelbs.yaml differs from the models",
        "kubebee.dev_bpfnodes.yaml is missing",
        "old.yaml is not one of ours",
    ]


def test_generation_is_deterministic() -> None:
    assert crd.all_crds() == crd.all_crds()


def test_the_reference_names_defaults_bounds_and_rules() -> None:
    text = reference.markdown()
    assert "`spec.programs[].priority` | integer |" in text
    assert "Default: 500. (0 to 1000)" in text
    assert "- `spec.source`: exactly one of inline, template, configMap, object must be set" in text
    assert "Not implemented yet: Bpftrace." in text

"""What is generated from the chart and for it is current."""

from pathlib import Path

import yaml

from helm.binaries import MAJORS, ROOT
from helm.manifests import files


def test_generated_files_are_current(program: Path) -> None:
    made = files(program)
    stale = [
        str(path)
        for path, text in made.items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    ]
    assert stale == [], "run `make manifests`"


def test_plain_manifests_need_no_helm_and_make_their_namespace() -> None:
    text = (ROOT / "manifests" / "kubebee.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    assert documents[0]["kind"] == "Namespace"
    assert documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert "helm.sh/" not in text
    assert len(MAJORS) == 2

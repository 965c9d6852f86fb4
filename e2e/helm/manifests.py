"""What is generated from the chart: its CRDs and README, and plain manifests as a kustomize base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from helm.binaries import ROOT, run
from helm.readme import readme

CHART = ROOT / "charts" / "kubebee"
NAMESPACE = "kubebee-system"
RELEASE = "kubebee"
_GENERATED = "# Generated from charts/kubebee by `make manifests`; change the chart, not this file.\n"
_HOOK = "helm.sh/hook"
# Custom resources may follow in the same `kubectl apply`, so definitions go first.
_FIRST = ("CustomResourceDefinition", "Namespace", "ServiceAccount", "ClusterRole", "Role")


def render(program: Path, *options: str, chart: Path = CHART) -> list[dict[str, Any]]:
    """The objects that a release has, hooks too.

    Args:
        program: Helm.
        options: of `helm template`, such as `--set x=y`.
        chart: which.

    Raises:
        HelmError: Helm refuses; has its message.
    """
    done = run(program, "template", RELEASE, chart, "--namespace", NAMESPACE, *options)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def files(program: Path) -> Mapping[Path, str]:
    """Every generated file of the tree, by its path from the root, and what it must be."""
    objects = [each for each in render(program) if _HOOK not in each["metadata"].get("annotations", {})]
    crds = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
    others = [_namespace(), *(each for each in objects if each["kind"] != "CustomResourceDefinition")]
    made = {
        Path("charts/kubebee/README.md"): readme(CHART),
        Path("manifests/crds.yaml"): _documents([_without_helm(each) for each in crds]),
        Path("manifests/kubebee.yaml"): _documents(
            [_without_helm(each) for each in sorted(others, key=_place)]
        ),
        Path("manifests/kustomization.yaml"): _kustomization(),
    }
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        made[Path("charts/kubebee/files/crds") / path.name] = path.read_text()
    return made


def _without_helm(document: dict[str, Any]) -> dict[str, Any]:
    """An object without labels and annotations that speak of a release."""
    metadata = dict(document["metadata"])
    labels = dict(metadata.get("labels", {}))
    for name in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        labels.pop(name, None)
    annotations = {
        name: text
        for name, text in metadata.get("annotations", {}).items()
        if not name.startswith("helm.sh/")
    }
    metadata = {**metadata, "labels": labels, "annotations": annotations}
    return {**document, "metadata": {name: part for name, part in metadata.items() if part}}


def _namespace() -> dict[str, Any]:
    # Loaders use the host's network and folders, which the other Pod Security levels refuse.
    labels = {"pod-security.kubernetes.io/enforce": "privileged", "app.kubernetes.io/part-of": "kubebee"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def _place(document: Mapping[str, Any]) -> int:
    return _FIRST.index(document["kind"]) if document["kind"] in _FIRST else len(_FIRST)


class _Readable(yaml.SafeDumper):
    """Text of several lines as it is, not folded into one."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def _documents(objects: list[dict[str, Any]]) -> str:
    dumped = (yaml.dump(each, Dumper=_Readable, sort_keys=False, width=110) for each in objects)
    return _GENERATED + "---\n".join(dumped)


def _kustomization() -> str:
    return (
        f"{_GENERATED}"
        "# kubectl apply --server-side -k manifests\n"
        "apiVersion: kustomize.config.k8s.io/v1beta1\n"
        "kind: Kustomization\n"
        "resources:\n"
        "  - crds.yaml\n"
        "  - kubebee.yaml\n"
    )

"""docs/security.md has every capability and every RBAC rule of the chart, and no others."""

import re
from typing import Any

import pytest

from helm.binaries import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
Rule = tuple[str, frozenset[str], frozenset[str]]


def documented(account: str) -> set[Rule]:
    """(where, resources, verbs) of the table below an account's heading."""
    (section,) = re.findall(rf"^### {account}\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    rules: set[Rule] = set()
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row.startswith("| `"):
            resources = frozenset(re.findall(r"`([^`]+)`", cells[0]))
            rules.add((cells[2], resources, frozenset(cells[1].split(", "))))
    return rules


def granted(documents: list[dict[str, Any]], account: str) -> set[Rule]:
    """The same of the chart's roles, by the bindings that name the account."""
    found: set[Rule] = set()
    bindings = [each for each in documents if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    for binding in bindings:
        if [subject["name"] for subject in binding["subjects"]] != [account]:
            continue
        (role,) = [
            each
            for each in documents
            if each["kind"] == binding["roleRef"]["kind"]
            and each["metadata"]["name"] == binding["roleRef"]["name"]
        ]
        namespace = role["metadata"].get("namespace")
        where = {None: "cluster", "kubebee-system": "its namespace"}.get(namespace, f"`{namespace}`")
        for rule in role["rules"]:
            assert rule["apiGroups"]
            found.add((where, frozenset(rule["resources"]), frozenset(rule["verbs"])))
    return found


@pytest.mark.parametrize(
    "account", ["kubebee-loader", "kubebee-controller", "kubebee-uninstall", "kubebee-test"]
)
def test_every_rule_of_an_account_is_explained_and_none_is_made_up(rendered, account: str) -> None:
    assert granted(rendered(), account) == documented(account)


def test_every_rule_has_its_reason_in_the_chart() -> None:
    for path in sorted((ROOT / "charts" / "kubebee" / "templates").rglob("*.yaml")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        for number, line in enumerate(lines):
            if line.startswith("- apiGroups:") and lines[number + 1].startswith("resources:"):
                # A rule without a comment of its own goes with the one before it.
                assert lines[number - 1].startswith(("#", "verbs:")), f"{path.name}:{number + 1}"


def test_every_capability_is_explained(rendered) -> None:
    template = (ROOT / "charts/kubebee/templates/loader/_daemonset.tpl").read_text()
    capabilities = set(re.findall(r"^ +- ([A-Z][A-Z_]+)$", template, flags=re.MULTILINE))
    explained = set(re.findall(r"^\| `([A-Z_]+)`", TEXT, flags=re.MULTILINE))
    assert capabilities == explained

"""The schema of values: what it takes and what it refuses, and Helm's own linter."""

import tomllib
from pathlib import Path

import pytest
import yaml

from helm.binaries import ROOT, run
from helm.errors import HelmError
from helm.manifests import CHART, render
from helm.readme import undocumented, values


def test_helm_s_linter_finds_nothing(program: Path) -> None:
    done = run(program, "lint", "--strict", CHART, check=False)
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("loader.capabilties.sysAdmin=true", "capabilties"),
        ("kubebee.k8sServicePort=seventy", "k8sServicePort"),
        ("controller.replicas=0", "replicas"),
        ("controller.metricsPort=70000", "metricsPort"),
        ("loader.tcMode=xdp", "tcMode"),
        ("loader.bpffs=relative/path", "bpffs"),
        ("loader.image.digest=latest", "digest"),
        ("loader.maxUnavailable=0%", "maxUnavailable"),
        ("loader.capabilities.extra[0]=CAP_SYS_ADMIN", "extra"),
        ("loader.hostPaths[0]=usr", "hostPaths"),
        ("loader.seccompProfile.type=None", "seccompProfile"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("uninstall.timeoutSeconds=0", "timeoutSeconds"),
        ("monitoring.serviceMonitor.interval=often", "interval"),
        ("unknown=1", "unknown"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(program: Path, option: str, named: str) -> None:
    with pytest.raises(HelmError, match=named):
        render(program, f"--set={option}")


@pytest.mark.parametrize(
    "option",
    [
        "--set=kubebee.k8sServicePort=443",
        "--set-string=kubebee.k8sServicePort=443",
        "--set-string=loader.cgroup=/sys/fs/cgroup/unified/$(KUBEBEE_NODE)",
        "--set=loader.tracefs=",
        "--set=loader.maxUnavailable=3",
        "--set=loader.seLinuxOptions=null",
        "--set=loader.appArmorProfile=null",
        "--set=loader.seccompProfile.type=RuntimeDefault",
        "--set=global.anything=1",
        "--set=kubebee.k8sServiceHost=2001:db8::1",
    ],
)
def test_a_value_that_can_be_is_taken(program: Path, option: str) -> None:
    assert render(program, option)


def test_every_value_has_a_comment() -> None:
    assert undocumented((CHART / "values.yaml").read_text()) == []


def test_a_value_s_path_default_and_meaning_are_those_of_the_file() -> None:
    text = "a:\n  # First\n  # and more.\n  b: 1\n  # Map.\n  c: {d: e}\n"
    assert [(each.path, each.default, each.meaning) for each in values(text)] == [
        ("a.b", 1, "First and more."),
        ("a.c", {"d": "e"}, "Map."),
    ]


def test_the_chart_is_of_the_project_s_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project, project)

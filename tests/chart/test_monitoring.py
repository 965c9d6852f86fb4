"""Dashboard and alerts speak of the metrics that there are."""

import json
import re

import yaml

from helm.binaries import ROOT
from helm.manifests import CHART

METRIC = re.compile(r"kubebee_[a-z0-9_]+")
SUFFIXES = ("_bucket", "_sum", "_count")


def documented() -> set[str]:
    """Metrics of the first columns of docs/metrics.md."""
    rows = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    return {found[0] for row in rows if row.startswith("| `kubebee_") and (found := METRIC.search(row))}


def families(expression: str) -> set[str]:
    """Metrics that an expression asks for, histograms by their own name."""
    found = set(METRIC.findall(expression))
    return {name.removesuffix(suffix) for name in found for suffix in SUFFIXES if name.endswith(suffix)} | {
        name for name in found if not name.endswith(SUFFIXES)
    }


def on_the_dashboard() -> set[str]:
    """Metrics that its queries ask for."""
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    return {
        name for panel in panels for target in panel.get("targets", []) for name in families(target["expr"])
    }


def test_the_dashboard_has_a_panel_for_each_documented_metric() -> None:
    assert documented() - on_the_dashboard() == set()


def test_the_dashboard_and_the_alerts_ask_for_no_metric_that_is_not_documented() -> None:
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"][0]["rules"]
    in_alerts = {name for rule in rules for name in families(rule["expr"])}
    assert (on_the_dashboard() | in_alerts) - documented() == set()


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_says_what_and_how_bad_and_has_its_line_in_the_docs() -> None:
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"][0]["rules"]
    operations = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert f"`{rule['alert']}`" in operations

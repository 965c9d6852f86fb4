"""What Flux (by kstatus) and Argo CD (by a health check in Lua) make of a resource, over its whole life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51

from kubebee.api.crd import crd
from kubebee.api.v1alpha1.resources import KINDS
from support.life_cycle import Moment, life

_ARGO = Path(__file__).parents[2] / "gitops" / "argocd"
LIFE = life()


def kstatus(obj: dict[str, Any]) -> str:
    """Status of an object by the rules of kstatus for custom resources.

    Source: sigs.k8s.io/cli-utils, pkg/kstatus/README.md, "Status" and "Conditions".
    """
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    status = obj.get("status", {})
    observed = status.get("observedGeneration")
    if observed is not None and observed != obj["metadata"]["generation"]:
        return "InProgress"
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "Current" if conditions.get("Ready", "True") == "True" else "InProgress"


def argo(obj: dict[str, Any]) -> tuple[str, str]:
    """(status, message) by our health check, run as Argo CD does: Lua 5.1, the object in the global `obj`."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(obj, recursive=True)
    result = lua.execute((_ARGO / "health.lua").read_text())
    return result.status, result.message


@pytest.mark.parametrize("moment", LIFE, ids=[moment.what for moment in LIFE])
def test_kstatus_reads_every_moment_right(moment: Moment) -> None:
    assert kstatus(moment.object) == moment.kstatus


@pytest.mark.parametrize("moment", LIFE, ids=[moment.what for moment in LIFE])
def test_argo_cd_reads_every_moment_right(moment: Moment) -> None:
    status, message = argo(moment.object)
    assert status == moment.argo
    assert message


def test_argo_cd_waits_where_there_is_no_status_at_all() -> None:
    obj = {"metadata": {"name": "x", "generation": 1}, "spec": {}}
    assert argo(obj)[0] == "Progressing"


def test_an_object_without_a_status_is_not_taken_for_done() -> None:
    for kind in KINDS:
        schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert schema["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_argo_cd_is_told_of_every_kind_that_users_write() -> None:
    (generator,) = yaml.safe_load((_ARGO / "kustomization.yaml").read_text())["configMapGenerator"]
    kinds = {kind.__name__ for kind in KINDS} - {"BpfNode"}
    assert set(generator["files"]) == {
        f"resource.customizations.health.kubebee.dev_{kind}=health.lua" for kind in kinds
    }

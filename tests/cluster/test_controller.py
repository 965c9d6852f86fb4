"""The controller against a real API server; nodes and their loaders are played by the tests."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kubebee.controller.kinds import BPF_NODES, EVENTS, bundles, config_maps, daemon_sets, leases
from kubebee.planner.cluster import FINALIZER
from support.controllers import DEADLINE, NAMESPACE, Bare, seen
from support.running import KUBEBEE, wait_for
from support.site import counter, program

ROOT = Path(__file__).parents[2]
KILLS = 8


def config_map_program(name: str = "mapped") -> dict[str, Any]:
    manifest = program(name, counter())
    manifest["spec"]["source"] = {"configMap": {"namespace": "default", "name": "code", "key": "x.bpf.c"}}
    return manifest


def events(bare: Bare, reason: str) -> list[str]:
    """Messages of the Events with a reason."""
    found = (item for _, items in bare.api.pages(EVENTS) for item in items)
    return [item["message"] for item in found if item["reason"] == reason]


# -- what becomes of a resource ------------------------------------------------------------------------------


def test_a_resource_reaches_the_nodes_and_its_status_says_so(bare: Bare) -> None:
    uid = bare.put(program("packets", counter()))["metadata"]["uid"]
    with bare.acting():
        seen("bundles on both nodes", lambda: bare.wanted("n1") and bare.wanted("n1") == bare.wanted("n2"))
        assert FINALIZER in bare.get("BpfProgram", "packets")["metadata"]["finalizers"]
        assert bare.names("daemonsets") == {"kubebee-loader"}
        (bundle,) = bare.names("bundles")
        assert bundle.endswith(bare.wanted("n1")["BpfProgram/packets"])
        seen("ready", bare.obeying(lambda: bare.ready("BpfProgram", "packets"), "n1", "n2"))
        assert bare.get("BpfProgram", "packets")["status"]["nodes"]["summary"] == "2/2"
        about = [
            item["reason"]
            for _, items in bare.api.pages(EVENTS)
            for item in items
            if item["involvedObject"].get("uid") == uid
        ]
        assert sorted(about) == ["RolloutComplete", "RolloutStarted"]


def test_it_writes_nothing_when_nothing_changes(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting() as controller:
        seen("ready", bare.obeying(lambda: bare.ready("BpfProgram", "packets"), "n1", "n2"))
        lease = bare.api.get(leases(NAMESPACE), "kubebee-controller")["spec"]["renewTime"]
        before = controller.metric("kubebee_controller_writes_total")

        def renewed_twice() -> bool:
            return bool(bare.api.get(leases(NAMESPACE), "kubebee-controller")["spec"]["renewTime"] > lease)

        seen("the Lease is renewed", renewed_twice)
        lease = bare.api.get(leases(NAMESPACE), "kubebee-controller")["spec"]["renewTime"]
        seen("the Lease is renewed again", renewed_twice)
        assert controller.metric("kubebee_controller_writes_total") == before


def test_what_others_edit_or_delete_is_put_back(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting():
        seen("bundles on n1", lambda: bare.wanted("n1"))
        wanted, (bundle,) = bare.wanted("n1"), bare.names("bundles")
        bare.api.merge(BPF_NODES, "n1", {"spec": {"bundles": []}})
        bare.api.delete(BPF_NODES, "n2")
        seen("what n1 shall run", lambda: bare.wanted("n1") == wanted)
        seen("the BpfNode of n2", lambda: bare.wanted("n2") == wanted)
        bare.api.delete(bundles(NAMESPACE), bundle)
        seen("the bundle", lambda: bare.names("bundles") == {bundle})
        sets = daemon_sets(NAMESPACE)
        bare.api.delete(sets, "kubebee-loader")
        seen("the DaemonSet", lambda: bare.names("daemonsets"))
        patch = {
            "spec": {"template": {"spec": {"hostNetwork": True, "containers": [{"name": "x", "image": "y"}]}}}
        }
        bare.api.merge(sets, "kubebee-loader", patch)

        def images() -> list[str]:
            spec = bare.api.get(sets, "kubebee-loader")["spec"]["template"]["spec"]
            return [each["image"] for each in spec["containers"] if each["name"] == "loader"]

        seen("its container", lambda: images() == ["kubebee-loader:test"])


def test_an_edit_takes_the_old_bundle_away_once_it_is_ready(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting():
        ready = bare.obeying(lambda: bare.ready("BpfProgram", "packets"), "n1", "n2")
        seen("ready", ready)
        before = bare.names("bundles")
        bare.put(program("packets", counter(size="64")))
        seen(
            "another version",
            lambda: not before & set(map(str, bare.names("bundles"))) or bare.obey("n1", "n2"),
        )
        seen("ready again", ready)
        seen("one bundle", lambda: len(bare.names("bundles")) == 1)
        assert not before & bare.names("bundles")


def test_a_deleted_resource_waits_for_its_nodes_and_leaves_nothing(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting():
        seen("ready", bare.obeying(lambda: bare.ready("BpfProgram", "packets"), "n1", "n2"))
        bare.cluster.kubectl("delete", "bpfprogram", "packets", "--wait=false")
        seen("nothing wanted", lambda: not bare.wanted("n1") and not bare.wanted("n2"))
        assert bare.get("BpfProgram", "packets")["metadata"]["finalizers"] == [FINALIZER]
        bare.obey("n1")
        bare.add_node("n2", ready=False)  # never heard of again
        seen("the end of it", lambda: not bare.has("BpfProgram", "packets"))
        bare.add_node("n2")
        bare.obey("n2")
        for what in ("bundles", "daemonsets", "bpfnodes"):
            seen(f"no {what}", lambda what=what: not bare.names(what))


def test_a_config_map_that_is_missing_appears_and_changes(bare: Bare) -> None:
    bare.put(config_map_program())
    with bare.acting():
        seen("a reason", lambda: bare.reason("BpfProgram", "mapped") == "SourceNotFound")
        body = {"metadata": {"name": "code"}, "data": {"x.bpf.c": counter()}}
        bare.api.create(config_maps("default"), body)
        seen("wanted", lambda: bare.wanted("n1"))
        first = bare.wanted("n1")
        bare.api.merge(config_maps("default"), "code", {"data": {"x.bpf.c": counter(size="64")}})
        seen("another version", lambda: bare.wanted("n1") != first and bare.wanted("n1"))
        bare.api.delete(config_maps("default"), "code")
        seen("a reason again", lambda: bare.reason("BpfProgram", "mapped") == "SourceNotFound")
        assert bare.wanted("n1")


def test_a_template_is_rendered_for_the_nodes(bare: Bare) -> None:
    manifest = program("snoop", "")
    manifest["spec"]["source"] = {"template": {"name": "xdp-counter"}}
    manifest["spec"]["programs"][0]["name"] = "count_packets"
    bare.put(manifest)
    with bare.acting():
        seen("ready", bare.obeying(lambda: bare.ready("BpfProgram", "snoop"), "n1", "n2"))


# -- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.full
def test_killed_at_any_point_it_converges(bare: Bare) -> None:
    chance = random.Random(4)
    for kill in range(KILLS):
        for number in range(3):
            bare.put(program(f"p{number}", counter(size=str(number + 2 + kill))))
        controller = bare.start()
        wait_for("it acts, or stands by", lambda c=controller: c.acts or bare.obey("n1", "n2"), DEADLINE)
        writes = chance.randrange(1, 25)

        def far_enough(controller: Any = controller, writes: int = writes) -> bool:
            bare.obey("n1", "n2")
            done = controller.metric("kubebee_controller_writes_total") >= writes
            return bool(done or all(bare.ready("BpfProgram", f"p{n}") for n in range(3)))

        seen("some writes", far_enough)
        controller.kill()
        bare.api.delete(leases(NAMESPACE), "kubebee-controller")  # its end need not be waited for
    with bare.acting():
        for number in range(3):
            name = f"p{number}"
            seen(f"{name} ready", bare.obeying(lambda name=name: bare.ready("BpfProgram", name), "n1", "n2"))
        seen("as many bundles as resources", lambda: len(bare.names("bundles")) == 3)
    for message in ("RolloutStarted", "RolloutComplete"):
        told = [m for m in events(bare, message) if m.startswith(f"generation {KILLS} ")]
        assert len(told) <= 3


def test_it_goes_on_after_an_outage_and_learns_what_it_missed(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    bare.put(program("other", counter(size="16")))
    with bare.acting() as controller:
        seen("both wanted", lambda: len(bare.wanted("n1")) == 2)
        bare.cluster.stop_api()
        wait_for("it noticed", lambda: not controller.acts, DEADLINE)
        bare.cluster.start_api()
        bare.put(program("packets", counter(size="64")))
        bare.put(program("third", counter(size="4")))
        seen("it acts again", lambda: controller.acts)
        seen("three wanted", lambda: len(bare.wanted("n1")) == 3)
        seen("ready", bare.obeying(lambda: bare.ready("BpfProgram", "packets"), "n1", "n2"))
        assert controller.process.poll() is None


def test_it_waits_for_its_kinds_to_be_served(bare: Bare) -> None:
    path = ROOT / "crds" / "kubebee.dev_hostpolicies.yaml"
    bare.cluster.kubectl("delete", "-f", str(path))
    controller = bare.start()
    try:
        wait_for("it says so", lambda: "hostpolicies" in controller.log.read_text(), DEADLINE)
        bare.cluster.apply(path, "--server-side")
        bare.put(program("packets", counter()))
        seen("wanted", lambda: bare.wanted("n1"))
    finally:
        bare.cluster.apply(path, "--server-side")
        controller.kill()


# -- who acts ------------------------------------------------------------------------------------------------


def test_of_two_controllers_one_acts_and_the_other_follows_it(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting() as first:
        second = bare.start()
        try:
            seen("wanted", lambda: bare.wanted("n1"))
            assert not second.acts
            assert first.end() == 0
            wait_for("the second acts", lambda: second.acts, DEADLINE)
            bare.put(program("other", counter(size="64")))
            seen("both wanted", lambda: len(bare.wanted("n1")) == 2)
        finally:
            second.kill()


def test_one_that_dies_is_followed(bare: Bare) -> None:
    with bare.acting() as first:
        second = bare.start()
        try:
            first.kill()
            wait_for("the second acts", lambda: second.acts, DEADLINE)
        finally:
            second.kill()


def test_one_whose_lease_is_taken_writes_nothing_more(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting() as controller:
        seen("wanted", lambda: bare.wanted("n1"))

        def take() -> bool:
            lease = bare.api.get(leases(NAMESPACE), "kubebee-controller")
            lease["spec"] |= {"holderIdentity": "somebody", "leaseDurationSeconds": 15}
            bare.api.replace(leases(NAMESPACE), lease)
            return True

        seen("taken", take)
        wait_for("it stops", lambda: not controller.acts, DEADLINE)
        before = controller.metric("kubebee_controller_writes_total")
        bare.put(program("other", counter(size="64")))
        assert controller.metric("kubebee_controller_writes_total") == before
        wait_for("it takes over", lambda: controller.acts, DEADLINE)
        seen("both wanted", lambda: len(bare.wanted("n1")) == 2)


# -- the end of it -------------------------------------------------------------------------------------------


def uninstall(bare: Bare, *options: str) -> subprocess.Popen[str]:
    """`kubebee uninstall`, started."""
    command = [KUBEBEE, "uninstall", "--namespace", NAMESPACE, *options]
    command += ["--kubeconfig", str(bare.cluster.spec.kubeconfig)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_uninstalling_empties_the_nodes_first_and_leaves_only_resources(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    bare.add_node("down", ready=False)
    with bare.acting() as controller:
        seen("all nodes shall run it", lambda: all(bare.wanted(name) for name in ("n1", "n2", "down")))
        bare.obey("n1", "n2", "down")
        ending = uninstall(bare)
        controller.end()  # the Deployment's pods, here
        seen("nothing wanted", lambda: not bare.wanted("n1") and not bare.wanted("n2"))
        assert ending.poll() is None
        assert bare.names("daemonsets") == {"kubebee-loader"}
        bare.obey("n1", "n2")
        _, said = ending.communicate(timeout=DEADLINE)
    assert ending.returncode == 0, said
    for what in ("bundles", "daemonsets", "bpfnodes"):
        assert not bare.names(what)
    left = bare.get("BpfProgram", "packets")
    assert not left["metadata"].get("finalizers")
    assert left["status"] == {"observedGeneration": -1}  # as one that nobody has looked at


def test_uninstalling_names_the_nodes_that_still_run_something(bare: Bare) -> None:
    bare.put(program("packets", counter()))
    with bare.acting() as controller:
        seen("ready", bare.obeying(lambda: bare.ready("BpfProgram", "packets"), "n1", "n2"))
        controller.end()
    ending = uninstall(bare, "--timeout", "20")
    seen("nothing wanted", lambda: not bare.wanted("n1"))
    bare.obey("n1")
    _, said = ending.communicate(timeout=DEADLINE)
    assert ending.returncode == 1
    error = said.partition("error: ")[2]
    assert "n2" in error
    assert "n1" not in error
    assert "StillRunning" in error
    assert bare.names("bpfnodes") == {"n1", "n2"}
    forced = uninstall(bare, "--timeout", "10", "--force")
    _, said = forced.communicate(timeout=DEADLINE)
    assert forced.returncode == 0, said
    assert not bare.names("bpfnodes")
    again = uninstall(bare)
    _, said = again.communicate(timeout=DEADLINE)
    assert again.returncode == 0, said

"""Manifests that are wrong in themselves: refused by name and place, and what ran before runs on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lab import NODE, VIP, is_denied
from lab.topology import NODE_PORT
from support.running import Status
from support.site import EDITED, Site, balancer, counter, policy, program, tracer, wait_for

pytestmark = pytest.mark.root


def manifest_event(site: Site, reason: str, *words: str) -> str:
    """The message of the Event about a manifest that no resource could be told from."""

    def look() -> str | None:
        found = (e for e in site.running.events() if (e["kind"], e["reason"]) == ("Manifest", reason))
        return next((e["message"] for e in found if all(word in e["message"] for word in words)), None)

    message = wait_for(f"Event {reason} {words}", look, 5)
    assert message is not None
    return message


def test_broken_yaml_is_named_by_line_and_deletes_nothing(site: Site) -> None:
    status = site.refused(
        "kind: BpfProgram\nmetadata: {name: [\n", "InvalidYAML", f"bpfprogram-{EDITED}.yaml:3:1"
    )
    assert status.failures[0]["hint"] == "mend this line"


def test_broken_yaml_of_nothing_known_is_an_event(site: Site) -> None:
    with site.undisturbed():
        site.running.apply("\tkind: nothing", "new.yaml")
        assert "mend this line" in manifest_event(site, "InvalidYAML", "new.yaml:1:1")
        site.running.delete("new.yaml")


def test_an_unknown_field_is_named_with_the_likely_one(site: Site) -> None:
    bad = program(EDITED, counter(), priorty=3)
    status = site.refused(bad, "UnknownField", f"bpfprogram-{EDITED}.yaml", "spec.priorty", "unknown field")
    assert status.generation == 2
    bad = program(EDITED, counter(), {"type": "XDP", "interface": {"names": ["eth0"]}})
    site.refused(bad, "InvalidSpec", "attach.interfaces: required", "did you mean interfaces?")


def test_of_two_resources_of_one_name_the_first_stays(site: Site) -> None:
    with site.undisturbed():
        site.running.apply(program("packets", counter(result="XDP_DROP")), "again.yaml")
        message = manifest_event(site, "DuplicateResource", "again.yaml", "bpfprogram-packets.yaml")
        assert "rename or remove one of the two" in message
        site.running.delete("again.yaml")


@pytest.mark.parametrize("name", ["../../escape", "..", "x" * 300, "Upper", ""])
def test_a_bad_name_is_refused_and_touches_no_file(site: Site, name: str) -> None:
    with site.undisturbed():
        site.running.apply(program(name, counter()), "named.yaml")
        assert "at most 253 characters" in manifest_event(site, "InvalidName", "named.yaml", "metadata.name")
        site.running.delete("named.yaml")
    state = [path.name for path in (site.running.manifests / ".kubebee").rglob("*") if path.is_file()]
    assert not [path for path in state if "escape" in path or "xxx" in path or "Upper" in path]


def test_the_longest_name_that_is_allowed_runs(site: Site) -> None:
    longest = "x" * 253
    attach = {"type": "RawTracepoint", "name": "sched_process_exec"}
    with site.undisturbed():
        site.running.apply(program(longest, tracer(), attach), "longest.yaml")
        wait_for("a status", lambda: any("xxx" in path.name for path in statuses(site)))
        (path,) = (path for path in statuses(site) if "xxx" in path.name)
        wait_for("Ready", lambda: Status(yaml.safe_load(path.read_text())).ready)
        site.running.delete("longest.yaml")
        wait_for("its status to go", lambda: not path.exists())


def statuses(site: Site) -> list[Path]:
    return list((site.running.manifests / ".kubebee" / "status").glob("*/*.yaml"))


def test_a_source_of_10_mb_is_refused(site: Site) -> None:
    bad = json.dumps(program(EDITED, counter(body=f"/* {'x' * (10 << 20)} */")))  # JSON is YAML
    site.refused(bad, "InvalidSpec", "spec.source.inline", "characters, at most 524288 are allowed")


def test_a_field_that_is_not_built_yet_is_never_accepted_silently(site: Site) -> None:
    status = site.refused(
        program(EDITED, counter(), overheadBudget={"cpuPercent": 5}), "NotImplemented", "spec.overheadBudget"
    )
    assert "leave it out" in status.failures[0]["hint"]


def test_a_source_in_a_config_map_that_is_not_there(site: Site) -> None:
    source = {"configMap": {"name": "code", "namespace": "default", "key": "a.c"}}
    bad = program(EDITED, source)
    site.refused(bad, "SourceNotFound", "ConfigMap default/code", "add it, or correct its name")


def test_an_invalid_regex_is_never_taken_for_all_interfaces(site: Site) -> None:
    bad = program(EDITED, counter(), {"type": "XDP", "interfaces": {"regexes": ["eth[0"]}})
    site.refused(bad, "InvalidSpec", "spec.programs[0].attach.interfaces.regexes", "eth[0")


def test_a_frontend_that_another_has_already_is_refused(site: Site) -> None:
    with site.undisturbed():
        site.running.apply(balancer("thief"))
        status = site.wait_refused("ServiceLB", "thief", "DuplicateFrontend", f"{VIP}:80", "ServiceLB/shop")
        assert "give it another port" in status.message
        assert not status.attachments
        site.running.delete("servicelb-thief.yaml")


def test_a_backend_that_is_no_address_is_refused(site: Site) -> None:
    good = site.running.status("ServiceLB", "shop")
    with site.undisturbed():
        site.running.apply(balancer("shop", backend="10.2.1.1234"))
        where = "spec.frontends[0].backends[0].address"
        status = site.wait_refused("ServiceLB", "shop", "InvalidSpec", where, "10.2.1.1234")
        assert status.attachments == good.attachments
        assert "the version before it goes on running" in status.message
        site.mend("ServiceLB", "shop")


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("8010-8000", "'8010-8000' is no port from 1 to 65535 nor a range of them, first to last"),
        ("1000-2000", "'1000-2000' are 1001 ports, at most 1000 are allowed"),
        ("79-81", "frontends[0] and frontends[1] both have 10.200.0.10 port 80/TCP"),
    ],
)
def test_a_range_of_ports_that_can_not_be_served_is_refused(site: Site, port: str, words: str) -> None:
    bad = balancer("shop")
    bad["spec"]["frontends"].append({"name": "more", "address": VIP, "port": port})
    with site.undisturbed():
        site.running.apply(bad)
        site.wait_refused("ServiceLB", "shop", "InvalidSpec", words)
        site.mend("ServiceLB", "shop")


@pytest.mark.parametrize(("name", "denied"), [("zulu", True), ("alpha", False)])
def test_of_overlapping_policies_both_are_in_force_in_order(site: Site, name: str, denied: bool) -> None:
    first, second = sorted(["edge", name])
    with site.undisturbed():
        assert is_denied(site.lab.client, NODE, NODE_PORT)
        site.running.apply(policy(name, "Allow"))
        for warned in ("edge", name):
            status = site.running.wait(
                "HostPolicy", warned, lambda s: f"{first}/rule hides {second}/rule" in s.message
            )
            assert status.ready
        assert is_denied(site.lab.client, NODE, NODE_PORT) == denied
        site.running.delete(f"hostpolicy-{name}.yaml")
        site.running.wait("HostPolicy", "edge", lambda s: s.ready and "hides" not in s.message)
        assert is_denied(site.lab.client, NODE, NODE_PORT)


def test_mending_it_is_enough(site: Site) -> None:
    good = site.running.status("BpfProgram", EDITED).attachments
    site.refused(program(EDITED, counter(), whatever=1), "UnknownField", "spec.whatever")
    assert site.mend("BpfProgram", EDITED).attachments == good


def test_a_frontend_in_the_place_of_a_process_of_the_node_is_left_out(site: Site) -> None:
    site.running.apply(balancer("thief", NODE, NODE_PORT))
    words = f"{NODE}:{NODE_PORT}", "ServiceLB/thief:web", "another address or port"
    site.wait_refused("ServiceLB", "thief", "AddressInUse", *words, stalled=False)
    assert site.lab.on_node("curl", "-s", f"http://{NODE}:{NODE_PORT}/").stdout == "node\n"
    assert site.running.status("ServiceLB", "shop").ready
    site.traffic()
    site.running.apply(balancer("thief", NODE, NODE_PORT + 1))
    site.running.wait("ServiceLB", "thief", lambda status: status.ready, "served at another port")
    site.running.delete("servicelb-thief.yaml")
    site.running.wait("ServiceLB", "thief", lambda status: not status.document, "it is gone")

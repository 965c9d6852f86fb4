"""Global variables: values of the manifest get the types and the byte order of the C source."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import Lab
from support.running import Running, Status, wait_for
from support.seen import program_ids, variable

pytestmark = pytest.mark.root

SOURCE = """
#include <linux/bpf.h>
#include <linux/in6.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum mode { MODE_OFF, MODE_COUNT = 4 };
struct limits { __u32 rate; __u16 burst[2]; };

const volatile __u32 constant = 1;
const volatile char label[8] = "none";

int number = -1;
__u8 small;
__s64 wide;
bool enabled;
enum mode mode;
char text[12];
__u16 list[4];
struct limits limits;
__be32 address;
__be16 port;
__u8 mac[6];
struct in6_addr address6;
__u64 runs;
__u64 constant_seen;

SEC("raw_tp/sched_process_exec")
int run(void *ctx)
{
	(void)ctx;
	runs += enabled;
	constant_seen = constant + label[0];
	/* the compiler drops what nothing refers to */
	asm volatile("" :: "r"(&number), "r"(&small), "r"(&wide), "r"(&mode), "r"(&text), "r"(&list));
	asm volatile("" :: "r"(&limits), "r"(&address), "r"(&port), "r"(&mac), "r"(&address6));
	return 0;
}

char _license[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def running(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path_factory.mktemp("globals")) as started:
        started.apply(manifest())
        started.wait_ready("BpfProgram", "variables")
        yield started


def manifest(**values: object) -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": "variables"},
        "spec": {
            "source": {"inline": SOURCE},
            "globals": values,
            "programs": [{"name": "run", "attach": {"type": "RawTracepoint", "name": "sched_process_exec"}}],
        },
    }


def edit(running: Running, **values: object) -> Status:
    """Give variables values, and wait until they are accepted or refused."""
    before = running.status("BpfProgram", "variables").generation
    file = running.manifests / "bpfprogram-variables.yaml"
    if yaml.safe_load(file.read_text()) == manifest(**values):
        return running.status("BpfProgram", "variables")
    running.apply(manifest(**values))
    return running.wait("BpfProgram", "variables", lambda s: s.generation > before, f"{values}")


def swapped(number: int, size: int) -> int:
    """How bpftool, which reads in the order of this host, shows a number in network order."""
    return int.from_bytes(number.to_bytes(size, "big"), "little")


IPV4 = int.from_bytes(socket.inet_aton("192.0.2.7"), "big")
IPV6 = list(socket.inet_pton(socket.AF_INET6, "2001:db8::7"))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("small", 255, 255),
        ("wide", -(2**63), -(2**63)),
        ("enabled", True, True),
        ("mode", "MODE_COUNT", "MODE_COUNT"),
        ("text", "hello", "hello"),
        ("list", [1, 2, 65535], [1, 2, 65535, 0]),
        ("limits", {"rate": 9, "burst": [1, 2]}, {"rate": 9, "burst": [1, 2]}),
        ("address", "192.0.2.7", swapped(IPV4, 4)),
        ("port", 8080, swapped(8080, 2)),
        ("mac", "02:00:00:00:00:2a", [2, 0, 0, 0, 0, 0x2A]),
        ("address6", "2001:db8::7", IPV6),
    ],
)
def test_a_value_changes_in_the_map_and_nothing_is_loaded(
    running: Running, name: str, value: object, shown: object
) -> None:
    before = program_ids(running, "variables")
    assert edit(running, **{name: value}).ready
    assert plain(variable(running, "variables", name)) == shown
    assert program_ids(running, "variables") == before


def plain(value: Any) -> Any:
    """A value as bpftool shows it, without the layers that C adds."""
    if isinstance(value, dict) and set(value) == {"in6_u"}:
        return value["in6_u"]["u6_addr8"]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        if all(one.startswith("0x") for one in value):
            return [int(one, 16) for one in value]
        return "".join(value).rstrip("\0")
    return value


def test_a_value_in_data_that_is_taken_back_is_that_of_the_source_again(running: Running) -> None:
    assert edit(running, number=-5).ready
    assert variable(running, "variables", "number", ".data") == -5
    assert edit(running).ready
    assert variable(running, "variables", "number", ".data") == -1


def test_a_live_value_takes_effect(lab: Lab, running: Running) -> None:
    assert edit(running, enabled=False).ready
    before = variable(running, "variables", "runs")
    lab.on_node("true")
    assert variable(running, "variables", "runs") == before
    assert edit(running, enabled=True).ready
    lab.on_node("true")
    assert variable(running, "variables", "runs") > before


def test_a_constant_is_loaded_anew_and_what_was_counted_stays(lab: Lab, running: Running) -> None:
    assert edit(running, enabled=True).ready
    lab.on_node("true")
    programs, runs = program_ids(running, "variables"), variable(running, "variables", "runs")
    assert runs > 0
    assert edit(running, enabled=True, constant=1000, label="A").ready
    assert not program_ids(running, "variables") & programs
    assert variable(running, "variables", "runs") >= runs

    def seen() -> bool:
        lab.on_node("true")
        return bool(variable(running, "variables", "constant_seen") == 1000 + ord("A"))

    wait_for("the constant's new value", seen)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("small", 256, ("globals.small", "__u8", "does not fit", "0 to 255")),
        ("number", "many", ("globals.number", "int", "'many'")),
        ("enabled", 7, ("globals.enabled", "true or false")),
        ("mode", "MODE_FAST", ("globals.mode", "MODE_FAST", "MODE_OFF, MODE_COUNT")),
        ("text", "much longer than it", ("globals.text", "char[12]")),
        ("list", [1, 2, 3, 4, 5], ("globals.list", "[4]")),
        ("limits", {"rate": 1, "bursts": 2}, ("globals.limits", "bursts", "struct limits", "burst")),
        ("address", "192.0.2.256", ("globals.address", "__be32", "192.0.2.256")),
        ("constant", -1, ("globals.constant", "__u32")),
        ("enable", True, ("globals.enable", "did you mean enabled")),
    ],
)
def test_a_value_that_does_not_fit_names_the_variable_and_its_type(
    running: Running, name: str, value: object, words: tuple[str, ...]
) -> None:
    assert edit(running, enabled=True).ready
    before = program_ids(running, "variables")
    status = edit(running, **{name: value})
    assert status.stalled
    said = f"{status.message} {status.failures}"
    assert [word for word in words if word not in said] == [], said
    assert program_ids(running, "variables") == before
    assert variable(running, "variables", "enabled") is True

"""Every file of examples/, applied by its name as a user does it: Ready on all nodes, and at work there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import Cluster, Node
from support.calls import ADDRESS_CALLS, CONGESTION_WINDOW, FAILING_LOOKUP, PYTHON
from support.installed import Installed, OnNode
from support.seen import entries, pins, variable

EXAMPLES = Path(__file__).parents[2] / "examples"
BLOCKED = "192.0.2.1"
"""xdp-block-list.yaml blocks it."""


def ping(cluster: Cluster, node: Node) -> None:
    cluster.client.run("ping", "-q", "-c", "5", "-i", "0.01", "-W", "1", node.address)


def connect(cluster: Cluster, node: Node) -> None:
    """To the kubelet."""
    cluster.client.run("curl", "-sk", "--max-time", "3", f"https://{node.address}:10250/", check=False)


def from_blocked_source(cluster: Cluster, node: Node) -> None:
    cluster.client.run("ip", "address", "replace", f"{BLOCKED}/32", "dev", "lo")
    words = ("ping", "-c", "2", "-i", "0.1", "-W", "0.2", "-I", BLOCKED, node.address)
    assert cluster.client.run(*words, check=False).returncode != 0
    cluster.client.run("ip", "address", "del", f"{BLOCKED}/32", "dev", "lo")


def start_a_process(cluster: Cluster, node: Node) -> None:
    node.run("true")


def ask_the_api_server(cluster: Cluster, node: Node) -> None:
    node.run("curl", "-sk", "--max-time", "3", f"{cluster.spec.server}/healthz")


def call_with_addresses(cluster: Cluster, node: Node) -> None:
    node.run(*PYTHON, ADDRESS_CALLS)


def lose_a_syn(cluster: Cluster, node: Node) -> None:
    """The kernel repeats a SYN that gets no answer after a second."""
    nobody = cluster.client.address.rpartition(".")[0] + ".250"
    node.run("curl", "-s", "--max-time", "1.3", f"http://{nobody}:9/", check=False)


def variables(*names: str) -> Callable[[OnNode, str], int]:
    """The least of some counting variables."""
    return lambda place, unit: min(int(variable(place, unit, name)) for name in names)


def filled(place: OnNode, unit: str) -> int:
    """How many entries the map `counts` has."""
    return len(entries(place, unit, "counts"))


def listed(place: OnNode, unit: str) -> int:
    """How many lines an iterator's report has."""
    (pin,) = pins(place, unit, "l")
    return len(place.run("cat", pin).stdout.splitlines())


def window(place: OnNode, _unit: str) -> int:
    """1 if a connection under the example's congestion control has its window."""
    return int(place.run(*PYTHON, CONGESTION_WINDOW, place.node.address, "10250").stdout) == 20


def nothing(_cluster: Cluster, _node: Node) -> None:
    """Nothing needs to be done."""


@dataclass(frozen=True)
class Case:
    """An example that runs here.

    Attributes:
        provoke: makes its functions run on a node.
        count: what they counted there; None where it needs more than a node, or has nothing to count.
        one_node: all nodes of these tests share one kernel, which takes it once.
    """

    provoke: Callable[[Cluster, Node], None] = nothing
    count: Callable[[OnNode, str], int] | None = None
    one_node: bool = False


RUN = {
    "cgroup-connect-log": Case(ask_the_api_server, filled),
    "cgroup-sock": Case(call_with_addresses, variables("made", "released", "bound4", "bound6")),
    "cgroup-sock-addr": Case(
        call_with_addresses,
        variables(*(f"{call}{n}s" for call in ("bind", "connect", "sendmsg", "recvmsg") for n in (4, 6))),
    ),
    "cgroup-traffic": Case(ask_the_api_server, variables("bytes_in", "bytes_out", "established")),
    "hostpolicy-audit": Case(),
    "iter-maps": Case(count=listed),
    "servicelb-dsr": Case(),
    "struct-ops-congestion-control": Case(count=window, one_node=True),
    "tc-both-directions": Case(ping, filled),
    "tp-btf-retransmits": Case(lose_a_syn, filled),
    "tracepoint-and-raw-tracepoint": Case(start_a_process, variables("forks", "exits")),
    "xdp-block-list": Case(from_blocked_source, variables("hits")),
    "xdp-syn-guard": Case(connect, filled),
    "quickstart/bpfprogram-execs": Case(start_a_process),
    "quickstart/bpfprogram-flows": Case(connect, filled),
    "quickstart/bpfprogram-packets": Case(ping, filled),
    "quickstart/hostpolicy": Case(),
    "quickstart/servicelb": Case(),
}
REFUSED = {
    "fentry-tcp-connect": ("Unsupported", "fentry"),
    "kprobe-opens": ("Unsupported", "kprobe"),
    "lsm-bpf-audit": ("Unsupported", "LSM"),
    "uprobe-name-lookups": ("LibraryNotFound", "loader.hostPaths"),
}
"""What this kernel lacks, or the chart does not give by default: reason and a word."""
MORE_RIGHTS = {"uprobe-name-lookups", "bcc-config-map"}
OF_THE_CLUSTER = {"quickstart/service"}
"""What a cluster has of itself: a Service, and endpoints that are none here."""


def the_resource(file: str) -> dict[str, Any]:
    """The resource of an example, which may have a ConfigMap beside it."""
    documents = yaml.safe_load_all((EXAMPLES / f"{file}.yaml").read_text())
    (found,) = (each for each in documents if each["kind"] != "ConfigMap")
    return dict(found)


def test_every_example_is_one_of_these() -> None:
    files = {str(path.relative_to(EXAMPLES).with_suffix("")) for path in EXAMPLES.rglob("*.yaml")}
    assert files == RUN.keys() | REFUSED.keys() | MORE_RIGHTS | OF_THE_CLUSTER


@pytest.fixture
def applied(cluster: Cluster, loaders: Installed) -> Iterator[Callable[[str], tuple[str, str]]]:
    """Apply an example by its file's name; (kind, name) of its resource. All goes after the test."""
    files: list[Path] = []

    def apply(file: str) -> tuple[str, str]:
        files.append(EXAMPLES / f"{file}.yaml")
        cluster.kubectl("apply", "-f", files[-1])
        manifest = the_resource(file)
        return manifest["kind"].lower(), manifest["metadata"]["name"]

    yield apply
    for path in files:
        cluster.kubectl("delete", "-f", path, "--wait=true")


@pytest.mark.parametrize("file", RUN)
def test_it_is_ready_on_all_nodes_and_at_work(
    cluster: Cluster, loaders: Installed, applied: Callable[[str], tuple[str, str]], file: str
) -> None:
    case, nodes = RUN[file], cluster.nodes
    kind, name = applied(file)
    if case.one_node:
        nodes = nodes[:1]
        patch = f'{{"spec": {{"nodeSelector": {{"kubernetes.io/hostname": "{nodes[0].name}"}}}}}}'
        cluster.kubectl("patch", kind, name, "--type=merge", "-p", patch)
    loaders.wait_ready(kind, name, nodes=len(nodes))
    for node in nodes if case.count else ():
        case.provoke(cluster, node)
        assert case.count is not None
        assert case.count(OnNode(node), name) > 0


@pytest.mark.parametrize("file", REFUSED)
def test_what_is_missing_for_it_is_named(
    loaders: Installed, applied: Callable[[str], tuple[str, str]], file: str
) -> None:
    reason, word = REFUSED[file]
    kind, name = applied(file)
    status = loaders.wait(kind, name, lambda s: s.current and s.reason == reason)
    assert word in str(status.status)


@pytest.fixture
def with_values(installed: Installed) -> Iterator[Callable[..., None]]:
    """Upgrade the release with values; it is as before after the test."""

    def upgrade(*values: str) -> None:
        installed.install(*(word for value in values for word in ("--set", value)))

    yield upgrade
    installed.install()


def test_uprobes_run_in_processes_of_the_node_without_more_capabilities(
    cluster: Cluster,
    loaders: Installed,
    with_values: Callable[..., None],
    applied: Callable[[str], tuple[str, str]],
) -> None:
    with_values("loader.hostPaths={/usr}")
    kind, name = applied("uprobe-name-lookups")
    status = loaders.wait_ready(kind, name, nodes=loaders.size, within=120)
    assert all("libc.so.6:getaddrinfo" in place["point"] for place in status.status["attachments"])
    node = cluster.nodes[0]
    lookups, failures = (int(variable(OnNode(node), name, each)) for each in ("lookups", "failures"))
    node.run(*PYTHON, FAILING_LOOKUP, check=False)
    assert variable(OnNode(node), name, "lookups") > lookups
    assert variable(OnNode(node), name, "failures") > failures
    context = loaders.pods("loader")[0]["spec"]["containers"][0]["securityContext"]
    assert context["capabilities"]["add"] == ["BPF", "PERFMON", "NET_ADMIN"]

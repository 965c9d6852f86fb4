"""The e2e cluster's names and addresses: within the kernel's limits, and apart from other clusters'."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from cluster import ClusterError, binaries
from cluster.node_files import pod_routes
from cluster.spec import MAX_NODES, ClusterSpec

LONGEST_LINK_NAME = 15


def test_link_names_of_the_longest_cluster_name_fit() -> None:
    spec = ClusterSpec("abcdef")
    links = [spec.bridge, f"{spec.name}-vc", *(spec.node(n).bridge_end for n in range(1, MAX_NODES + 1))]
    assert max(map(len, links)) <= LONGEST_LINK_NAME
    assert len(set(links)) == len(links)


def test_clusters_of_different_numbers_share_no_address() -> None:
    networks = [
        ipaddress.ip_network(network)
        for number in range(16)
        for network in (ClusterSpec("kbc", number).subnet, ClusterSpec("kbc", number).pods)
    ]
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)


def test_all_hosts_of_a_cluster_have_addresses_of_their_own_in_its_network() -> None:
    spec = ClusterSpec("kbc", 3)
    addresses = [spec.gateway, spec.client_address, *(spec.node(n).address for n in range(1, MAX_NODES + 1))]
    assert len(set(addresses)) == len(addresses)
    assert all(ipaddress.ip_address(each) in ipaddress.ip_network(spec.subnet) for each in addresses)


def test_a_node_has_routes_to_every_other_nodes_pods() -> None:
    spec = ClusterSpec()
    routes = pod_routes(spec, but=2).splitlines()
    assert len(routes) == MAX_NODES - 1
    assert f"route replace {spec.node(1).pods} via {spec.node(1).address}" in routes


@pytest.mark.parametrize("name", ["k", "toolong", "Kb", "1kb", "k-b", ""])
def test_a_name_that_links_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cluster name"):
        ClusterSpec(name)


@pytest.mark.parametrize("number", [-1, 16])
def test_a_number_without_addresses_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="cluster number"):
        ClusterSpec("kbc", number)


def test_binaries_say_the_version_that_go_mod_requires() -> None:
    version = binaries.KUBERNETES.version
    assert f"k8s.io/component-base/version.gitVersion={version}" in binaries.linker_flags(binaries.KUBERNETES)


def test_a_machine_without_go_is_told_what_to_do() -> None:
    with pytest.raises(ClusterError, match=r"no go command.*install Go"):
        binaries.check_go({"PATH": "/nonexistent"})


def test_a_go_that_is_too_old_is_named(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    go.chmod(0o755)
    with pytest.raises(ClusterError, match=r"go1\.19\.8.*older than 1\.24"):
        binaries.check_go({"PATH": f"{tmp_path}:/usr/bin:/bin"})

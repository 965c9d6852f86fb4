"""Manifests for the tests' cluster: small ones of each kind, with the cluster's own addresses."""

from __future__ import annotations

from typing import Any

from cluster.images import AGNHOST_IMAGE

API = "kubebee.dev/v1alpha1"
PRIMARY = {"primary": True}
COUNT = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

volatile __u32 step = 1;

SEC("xdp")
int count_packets(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *packets = bpf_map_lookup_elem(&counts, &zero);

	(void)ctx;
	if (packets)
		*packets += step; /* @VERSION@ */
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""
BROKEN = COUNT.replace("if (packets)", "if (pakets)")
REFUSED = COUNT.replace("if (packets)", "if (packets && *(__u8 *)(long)ctx->data)")
"""The verifier refuses it: nothing has said that there is a byte at that place of the packet."""
XDP = {"type": "XDP", "interfaces": PRIMARY}


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A manifest."""
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def source(version: int = 1) -> str:
    """The counter's C; each version is another text, and so another program."""
    return COUNT.replace("@VERSION@", f"version {version}")


def counter(name: str = "packets", *, code: str = "", **spec: Any) -> dict[str, Any]:
    """A BpfProgram that counts packets at XDP."""
    programs = [{"name": "count_packets", "attach": XDP}]
    return resource(
        "BpfProgram", name, {"source": {"inline": code or source()}, "programs": programs, **spec}
    )


def from_config_map(name: str, config_map: str) -> dict[str, Any]:
    """A BpfProgram whose source is in a ConfigMap of the namespace default."""
    place = {"namespace": "default", "name": config_map, "key": "count.c"}
    programs = [{"name": "count_packets", "attach": XDP}]
    return resource("BpfProgram", name, {"source": {"configMap": place}, "programs": programs})


def config_map(name: str, code: str) -> dict[str, Any]:
    """A ConfigMap with C."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"count.c": code},
    }


def policy(name: str, *rules: dict[str, Any], default: str = "Allow", **spec: Any) -> dict[str, Any]:
    """A HostPolicy on the primary interface."""
    return resource(
        "HostPolicy",
        name,
        {"interfaces": PRIMARY, "defaultAction": {"ingress": default}, "ingress": list(rules), **spec},
    )


def balancer(
    name: str,
    address: str,
    port: int,
    backends: list[tuple[str, int]],
    *,
    protocol: str = "TCP",
    **spec: Any,
) -> dict[str, Any]:
    """A ServiceLB with one frontend."""
    frontend = {
        "name": "web",
        "address": address,
        "port": port,
        "protocol": protocol,
        "backends": [{"address": host, "port": number} for host, number in backends],
    }
    return resource("ServiceLB", name, {"interfaces": PRIMARY, "frontends": [frontend], **spec})


def web_servers(namespace: str, ports: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    """A namespace, a web server on each node at port 8080, and its Service `web` with node ports.

    Args:
        namespace: its name.
        ports: of the Service.
        options: what else the servers are started with.
    """
    container = {
        "name": "web",
        "image": AGNHOST_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["netexec", "--http-port=8080", *options],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    pod = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    labels = {"app": "web"}
    metadata = {"name": "web", "namespace": namespace}
    template = {"metadata": {"labels": labels}, "spec": pod}
    servers = {"selector": {"matchLabels": labels}, "template": template}
    service = {"type": "NodePort", "selector": labels, "ports": ports}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": servers},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]

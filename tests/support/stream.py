"""A steady stream of packets from a lab's client to its node, each of them accounted for.

Frames go out by a packet socket in small bursts, straight into the veth's ring: no queue in between, and
nothing that a sender would repeat.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from kubebee.bpf.map import Map
from lab import CLIENT, NODE, Lab
from support.running import Running
from support.site import Manifest, balancer, policy, program

PORT = 9000
USERS = ("first", "second")
"""Programs of the user in the whole chain; each counts the stream's packets."""
STAGES = 2 + len(USERS)
BURST = 64
"""Frames at once, at most: a quarter of what a veth's ring holds."""
_PAUSE_S = 0.0002

COUNTER = """#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} streamed SEC(".maps");

SEC("%(section)s")
int count_stream(struct %(context)s *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;
	__u64 *count;

	if ((void *)(udp + 1) > (void *)(long)ctx->data_end)
		return %(on)s;
	if (ip->protocol != IPPROTO_UDP || udp->dest != bpf_htons(%(port)d))
		return %(on)s;
	count = bpf_map_lookup_elem(&streamed, &zero);
	if (count)
		++*count;
	return ctx->%(queue)s == 1000 + %(version)d ? %(drop)s : %(on)s;
}

char _license[] SEC("license") = "GPL";
"""


_HOOKS = {
    "xdp": {"context": "xdp_md", "queue": "rx_queue_index", "on": "XDP_PASS", "drop": "XDP_DROP"},
    "tc": {"context": "__sk_buff", "queue": "queue_mapping", "on": "-1", "drop": "2"},
}


def counter(version: int, section: str = "xdp") -> str:
    """C of a program that counts the stream's packets; each version (from 1 on) is other code."""
    return COUNTER % {"version": version, "port": PORT, "section": section, **_HOOKS[section]}


def stage(name: str, version: int) -> Manifest:
    """A BpfProgram that counts the stream's packets on eth0."""
    manifest = program(name, counter(version))
    manifest["spec"]["programs"][0]["name"] = "count_stream"
    return manifest


def whole_chain(running: Running) -> None:
    """Let eth0 run HostPolicy, ServiceLB and `USERS`; the firewall lets the stream pass."""
    firewall = policy("edge", "Allow", "10.1.0.0/24", "80")
    firewall["spec"]["ingress"][0]["protocols"].append({"protocol": "UDP", "ports": [str(PORT)]})
    manifests = [firewall, balancer("shop"), *(stage(name, 1) for name in USERS)]
    for manifest in manifests:
        running.apply(manifest)
    for manifest in manifests:
        running.wait_ready(manifest["kind"], manifest["metadata"]["name"])


class Stream:
    """A context manager: sends while it is open.

    Args:
        lab: from its client to its node.
        rate: packets a second, kept on average.
    """

    def __init__(self, lab: Lab, rate: int) -> None:
        self._lab = lab
        self._rate = rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, name="stream")
        self._failure: BaseException | None = None
        self.sent = 0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _send(self) -> None:
        try:
            frame = bytes(self._frame())
            with self._lab.client.socket(socket.SOCK_RAW, family=socket.AF_PACKET) as out:
                out.bind(("eth0", 0))
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)  # beside compilers too
                start = time.monotonic()
                while not self._over.is_set():
                    self.seconds = time.monotonic() - start
                    due = int(self.seconds * self._rate) - self.sent
                    for _ in range(min(due, BURST)):
                        out.send(frame)
                        self.sent += 1
                    time.sleep(_PAUSE_S)  # the receiver's turn, also when there is much to catch up
        except BaseException as error:  # told by the thread that opened the stream
            self._failure = error

    def _frame(self) -> Ether:
        (there,) = json.loads(self._lab.on_node("ip", "-json", "link", "show", "dev", "eth0").stdout)
        (here,) = json.loads(self._lab.client.ip("-json", "link", "show", "dev", "eth0"))
        ethernet = Ether(src=here["address"], dst=there["address"])
        return ethernet / IP(src=CLIENT, dst=NODE) / UDP(sport=40000, dport=PORT) / Raw(bytes(18))


def counted(lab: Lab, resource: str) -> int:
    """Packets of the stream that a program of `counter` saw."""
    return _sum(lab, f"bpfprogram-{resource}/streamed@*")


def runs(lab: Lab) -> dict[str, int]:
    """How often each XDP stage ran, by the folder of its pins."""
    pins = (lab.node.files / "sys/fs/bpf/kubebee/m").glob("*/kb_run-*")
    return {pin.parent.name: _first_word(pin) for pin in pins}


def delivered(lab: Lab) -> int:
    """UDP datagrams that the node's network stack got, whether or not anybody wanted them."""
    lines = lab.on_node("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    found = dict(zip(names, values, strict=True))
    return sum(int(found[name]) for name in ("InDatagrams", "NoPorts", "InErrors"))


def _sum(lab: Lab, pattern: str) -> int:
    (pin,) = (lab.node.files / "sys/fs/bpf/kubebee/m").glob(pattern)
    return _first_word(pin)


def _first_word(pin: Path) -> int:
    with Map.from_pin(str(pin)) as opened:
        return sum(int.from_bytes(value[:8], "little") for value in opened.lookup_percpu(bytes(4)))

"""A small network in namespaces to run kubebee in: client, node, two backends, all removed at exit."""

from lab.netns import Namespace
from lab.topology import BACKENDS, CLIENT, NODE, VIP, Lab
from lab.traffic import http_get, interface_counters, is_denied, tcp_connect, udp_ask

__all__ = [
    "BACKENDS",
    "CLIENT",
    "NODE",
    "VIP",
    "Lab",
    "Namespace",
    "http_get",
    "interface_counters",
    "is_denied",
    "tcp_connect",
    "udp_ask",
]

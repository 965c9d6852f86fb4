"""kubebee turns custom resources into eBPF programs on every node."""

__version__ = "0.1.0"

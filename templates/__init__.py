"""eBPF C templates and headers, shipped as package data."""

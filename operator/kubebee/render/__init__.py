"""Jinja environment that turns templates into eBPF C."""

"""What each long-running process loads: memory on every node is paid for by what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"aiohttp", "kopf", "kubernetes", "pyroute2", "clang", "scapy"}
ONE_MACHINE = ("cli.run", "cli.agent", "store.directory", "loader.metrics")
NODE = (
    "cli.agent_cluster",
    "cli.agent",
    "store.node",
    "loader.health",
    "loader.api_metrics",
    "loader.metrics",
)


@pytest.mark.parametrize(
    ("modules", "allowed"), [(ONE_MACHINE, set()), (NODE, {"aiohttp"})], ids=["run", "agent"]
)
def test_a_node_loads_no_library_that_it_has_no_use_for(modules: tuple[str, ...], allowed: set[str]) -> None:
    names = ", ".join(f"kubebee.{module}" for module in modules)
    code = f"import sys, {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert HEAVY & {name.partition(".")[0] for name in loaded.split()} == allowed

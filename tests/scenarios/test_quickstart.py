"""`make run` without a terminal: all attached, both backends answer, by a Service too, policy holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab import quickstart
from lab.netns import NETNS_DIR
from lab.node import cgroup2_root

pytestmark = pytest.mark.root


def leftovers_of(pid: int) -> list[Path]:
    """Namespaces and cgroups of the run; what it mounted went with its mount namespace."""
    return [path for folder in (NETNS_DIR, cgroup2_root()) for path in folder.glob(f"kb-{pid}-*")]


def test_quickstart_succeeds_and_leaves_nothing_behind() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "lab.quickstart"],
        cwd=quickstart.ROOT / "e2e",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert "FAULT" not in output
    assert "Service/default/hello:http" in output  # in the table of frontends
    assert "Service/default/hello:names" in output
    for how in ("HTTP", "UDP"):
        (line,) = (line for line in output.splitlines() if line.startswith(f"{how} requests to the Service"))
        assert all(int(count) > 0 for count in re.findall(r"backend\d (\d+)", line)), line
    assert leftovers_of(run.pid) == []


def test_a_resource_without_a_status_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("kind: HostPolicy\nmetadata: {name: edge}\n")
    assert quickstart.read_states(tmp_path) == [
        quickstart.State("HostPolicy", "edge", ready=False, why="no status yet")
    ]


def test_a_stalled_resource_says_why(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("kind: HostPolicy\nmetadata: {name: edge}\n")
    status = tmp_path / ".kubebee" / "status" / "HostPolicy" / "edge.yaml"
    status.parent.mkdir(parents=True)
    condition = "{type: Ready, status: 'False', reason: CompileFailed, message: line 3}"
    status.write_text(f"status: {{conditions: [{condition}]}}")
    (state,) = quickstart.read_states(tmp_path)
    assert not state.ready
    assert state.why == "CompileFailed: line 3"

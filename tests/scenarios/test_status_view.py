"""`kubebee status` beside a running kubebee, after it, and on a terminal: its counters are the kernel's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import NODE, VIP, http_get
from lab.topology import NODE_PORT
from lab.traffic import is_denied
from support.running import KUBEBEE
from support.site import Site

pytestmark = pytest.mark.root
REQUESTS = 5
DEADLINE_S = 20.0
ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


def status(site: Site, *options: str) -> str:
    """What `kubebee status` prints on the node."""
    return site.running.run(KUBEBEE, "status", "-f", str(site.running.manifests), *options).stdout


def counters(site: Site, *options: str) -> dict[str, Any]:
    """Its counters as JSON."""
    found: dict[str, Any] = json.loads(status(site, "-o", "json", *options))["counters"]
    return found


def connections(site: Site) -> int:
    """Connections of the one frontend."""
    (frontend,) = counters(site)["frontends"]
    assert frontend["name"] == "shop/web"
    return int(frontend["connections"])


def hits(site: Site) -> int:
    """Packets that the one rule of the policy decided."""
    return next(
        int(r["packets"]) for r in counters(site)["rules"] if (r["policy"], r["rule"]) == ("edge", "rule")
    )


def test_connections_are_counted_by_the_frontends_name(site: Site) -> None:
    before = connections(site)
    for _ in range(REQUESTS):
        http_get(site.lab.client, VIP)
    assert connections(site) == before + REQUESTS


def test_denied_packets_are_counted_by_the_rules_name(site: Site) -> None:
    before = hits(site)
    assert is_denied(site.lab.client, NODE, NODE_PORT)
    assert hits(site) > before


def test_every_xdp_function_has_its_runs(site: Site) -> None:
    site.traffic()
    runs = {(each["unit"], each["function"]): each["runs"] for each in counters(site)["programs"]}
    assert runs["BpfProgram/packets", "count"] > 0
    assert runs["ServiceLB/_all", "kb_servicelb"] > 0


def test_one_resource_alone_has_its_own_counters_only(site: Site) -> None:
    found = counters(site, "packets")
    assert [each["unit"] for each in found["programs"]] == ["BpfProgram/packets"]
    assert found["frontends"] == found["rules"] == []


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_asked_for_and_nothing_is_coloured(site: Site, columns: int) -> None:
    text = site.running.run(
        "env", f"COLUMNS={columns}", KUBEBEE, "status", "-f", str(site.running.manifests)
    ).stdout
    assert max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text


def test_counters_are_there_without_kubebee(site: Site) -> None:
    site.running.stop()
    try:
        before = connections(site)
        http_get(site.lab.client, VIP)
        assert connections(site) == before + 1
    finally:
        site.running.start()
        site.running.wait_ready("ServiceLB", "shop")


_AS_IT_IS = ("--unset=COLUMNS", "--unset=LINES")
"""The terminal's own size counts, not what the environment of the tests says."""


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str], lines: int = 50, columns: int = 120) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "env", *_AS_IT_IS, "--default-signal=INT", "TERM=xterm-256color", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.output = b""

    def wait_for(self, text: bytes) -> None:
        """Read until `text` was shown."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.output:
            assert time.monotonic() < deadline, self.output[-3000:]
            self._read()

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    def end(self) -> int:
        """Read until the command ends; its exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.output[-3000:]
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        readable, _, _ = select.select([self.master], [], [], 0.1)
        if not readable:
            return False
        try:
            chunk = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.output += chunk
        return bool(chunk)


@contextlib.contextmanager
def live_view(site: Site) -> Iterator[Terminal]:
    """`kubebee status --watch` on a terminal."""
    argv = [KUBEBEE, "status", "-f", str(site.running.manifests), "--watch"]
    terminal = Terminal(site.lab.node_command(argv))
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.master)


def test_the_live_view_gives_the_terminal_back_on_ctrl_c(site: Site) -> None:
    with live_view(site) as terminal:
        terminal.wait_for(b"edge/rule")
        assert ENTER_SCREEN in terminal.output
        terminal.type(b"\x03")
        assert terminal.end() == 0
        assert terminal.output.rfind(LEAVE_SCREEN) > terminal.output.rfind(ENTER_SCREEN)
        assert SHOW_CURSOR in terminal.output


def test_the_live_view_gives_the_terminal_back_when_it_is_terminated(site: Site) -> None:
    with live_view(site) as terminal:
        terminal.wait_for(b"edge/rule")
        terminal.process.terminate()
        assert terminal.end() == 128 + signal.SIGTERM
        assert LEAVE_SCREEN in terminal.output

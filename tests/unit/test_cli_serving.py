"""A process that serves says why it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

START = """
import asyncio, os, signal, threading
from kubebee.cli import logs
from kubebee.cli.serving import until_stopped

logs.set_up(False, "text")
async def waits(stop):
    await asyncio.to_thread(stop.wait)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: what is tested is how it ends."""
    command = [sys.executable, "-c", START + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_signal_to_end_is_logged_and_no_failure() -> None:
    ended = run("""
async def serve(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    await waits(stop)
until_stopped(serve)
""")
    assert ended.returncode == 0
    assert "ending: SIGTERM" in ended.stderr


def test_a_thread_that_fails_ends_all_with_its_traceback() -> None:
    ended = run("""
async def serve(stop):
    threading.Thread(target=lambda: {}["lease"], name="lease").start()
    await waits(stop)
until_stopped(serve)
""")
    assert ended.returncode == 1
    assert "thread lease failed" in ended.stderr
    assert "KeyError: 'lease'" in ended.stderr


def test_a_fault_is_logged_with_its_traceback() -> None:
    ended = run("""
async def serve(stop):
    raise ZeroDivisionError("nobody expects it")
until_stopped(serve)
""")
    assert ended.returncode == 1
    assert "please report it" in ended.stderr
    assert "ZeroDivisionError: nobody expects it" in ended.stderr


def test_a_crash_in_c_says_where_it_was() -> None:
    code = """
import sys
from kubebee.cli import main
main.cli = lambda prog_name: os.kill(os.getpid(), signal.SIGSEGV)
main.main()
"""
    ended = run(code)
    assert ended.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in ended.stderr

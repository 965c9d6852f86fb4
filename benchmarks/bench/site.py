"""A kubebee in a lab, and how to see from outside what it did."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab import Lab
from support.running import Running

_LOOK_SECONDS = 0.0005
_DEADLINE_SECONDS = 60.0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="kb-bench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def kubebee(options: Sequence[str] = ()) -> Iterator[tuple[Lab, Running]]:
    """A lab and a kubebee on an empty folder; not started yet, ended and removed with the block."""
    with scratch() as folder, Lab() as lab:
        running = Running(lab.node_command, folder, options)
        try:
            yield lab, running
        except Exception:
            print(running.log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            if running.process is not None:
                running.kill()


def pins_of(lab: Lab) -> Path:
    """The instance's pin directory, seen from outside of the node."""
    return lab.node.files / "sys/fs/bpf/kubebee"


def names(folder: Path) -> frozenset[str]:
    """Names of the pins in a folder; none if it isn't there."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 (pathlib makes an object of each)
    except FileNotFoundError:
        return frozenset()


def seconds_until(look: Callable[[], bool], since: float) -> float:
    """Look every half millisecond until `look` is true; seconds of the monotonic clock since `since`."""
    while not look():
        if time.perf_counter() - since > _DEADLINE_SECONDS:
            raise TimeoutError("what the benchmark waits for does not come")
        time.sleep(_LOOK_SECONDS)
    return time.perf_counter() - since


def rename_into(running: Running, name: str, text: str) -> float:
    """Put a manifest in place as editors do; returns the moment of the rename."""
    temporary = running.manifests / f".{name}.new"
    temporary.write_text(text)
    moment = time.perf_counter()
    temporary.replace(running.manifests / name)
    return moment

"""What must be on this machine before a cluster can start, made once: packages, binaries, images."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cluster import binaries, images, packages


def prepare(home: Path) -> Path:
    """Install, build and make what is missing: minutes at first. Returns the folder of the binaries.

    Raises:
        ClusterError: something cannot be had; says what to do.
    """
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "prepare.lock"):
        packages.install()
        with ThreadPoolExecutor() as pool:  # the one waits for downloads while the other computes
            rootfs = pool.submit(images.debian, home)
            programs = binaries.build(home)
            rootfs.result()
        images.make(home, programs)
    return programs


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one to hold a lock; waits for others. The kernel frees the lock of who dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

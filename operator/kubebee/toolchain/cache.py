"""Compiled objects on disk, addressed by what they are made from.

An entry is sha256(body) + body, body = msgpack of `Entry`; it appears by rename, so readers see all of it or
nothing, and one that does not match its digest (torn write, bad disk) is dropped and made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

_DIGEST_BYTES = 32
DEFAULT_MAX_BYTES = 512 << 20


class Entry(msgspec.Struct, frozen=True):
    """What a compile gave: the ELF object and what the compiler warned of."""

    elf: bytes
    log: str


def default_directory() -> Path:
    """$KUBEBEE_CACHE_DIR, else /var/cache/kubebee for root, else the user's cache directory."""
    if chosen := os.environ.get("KUBEBEE_CACHE_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/cache/kubebee")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubebee"


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write beside `path` and rename: no reader ever sees a part. Raises OSError, leaving no rest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


class ObjectCache:
    """Least recently used entries go once all of them pass `max_bytes`."""

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.directory = directory
        self.max_bytes = max_bytes

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None when there is none or it is damaged; never raises."""
        path = self.directory / key
        try:
            content = path.read_bytes()
            digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(body).digest() != digest:
                path.unlink()
                return None
            entry = msgspec.msgpack.decode(body, type=Entry)
            os.utime(path)
        except (OSError, msgspec.DecodeError):
            return None
        return entry

    def put(self, key: str, entry: Entry) -> str:
        """Store `entry`; returns why not, else "". A cache that cannot be written is no error."""
        body = msgspec.msgpack.encode(entry)
        try:
            write_atomically(self.directory / key, hashlib.sha256(body).digest() + body, mode=0o600)
            self._evict(keep=key)
        except OSError as error:
            return f"compile cache {self.directory} not written: {error.strerror}; every start compiles anew"
        return ""

    def _evict(self, *, keep: str) -> None:
        entries = []
        with os.scandir(self.directory) as listing:
            for item in listing:
                with contextlib.suppress(FileNotFoundError):
                    status = item.stat()
                    entries.append((status.st_mtime_ns, status.st_size, item.name))
        total = sum(size for _, size, _ in entries)
        for _, size, name in sorted(entries):
            if total <= self.max_bytes:
                return
            if name != keep:
                (self.directory / name).unlink(missing_ok=True)
                total -= size

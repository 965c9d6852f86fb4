"""The one place that knows pin paths: what is where under the bpffs root, and what a name means.

Layout below `<bpffs>/kubebee/`::

    m/<unit>/<map>@<schema>                        maps, by schema hash; a chain's object, by load hash
    p/<unit>/<function>@<hash>                     programs, by load hash
    l/<unit>/<function>@<target>@<hash>@g<gen>     links
    q/<ifindex>                                    symbolic links: we made this interface's clsact qdisc

bpffs refuses names with a dot (kernel/bpf/inode.c:bpf_lookup), so every name is escaped: a byte outside
[A-Za-z0-9_-] becomes %XX. A unit's directory is `<kind>-<name>`; a name that is too long for one path
component ends in a hash of the whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from kubebee.bpf.features import is_bpffs
from kubebee.errors import KubebeeError
from kubebee.loader import chain_object
from kubebee.planner.plan import ResourceKey

CHAIN = ResourceKey("xdp", "chain")
"""Stands for the unit whose programs are chains of several units' stages."""
NAME_MAX = 255
HASH_CHARS = 16
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")


class PinError(KubebeeError):
    """The pin directory can't be used."""

    reason = "PinDirectory"


def escape(name: str) -> str:
    """`name` as a bpffs path component part: no dot, no slash, no '@'."""
    escaped = _UNSAFE.sub(lambda m: b"%%%02X" % m.group()[0], name.encode()).decode()
    if len(escaped) > NAME_MAX // 2:
        digest = hashlib.sha256(name.encode()).hexdigest()[:HASH_CHARS]
        escaped = f"{escaped[: NAME_MAX // 2 - HASH_CHARS - 1]}-{digest}"
    return escaped


def unit_directory(key: ResourceKey) -> str:
    """Directory name of a unit."""
    return escape(f"{key.kind.lower()}-{key.name}")


@dataclass(frozen=True, slots=True)
class LinkPin:
    """What a link's file name says."""

    path: Path
    unit: str
    function: str
    target: str
    load_hash: str
    generation: int

    @property
    def place(self) -> tuple[str, str]:
        """As `pinned_place` has it."""
        function, target, *_ = self.path.name.split("@")
        return function, target


def pinned_place(function: str, target: str) -> tuple[str, str]:
    """How a link's file name says where it is: of long names, such as paths of cgroups, it has but a hash."""
    return escape(function), escape(target)


@dataclass(frozen=True, slots=True)
class PinRoot:
    """Pin paths of one instance.

    Args:
        bpffs: where a bpf file system is mounted.
    """

    bpffs: Path

    @property
    def root(self) -> Path:
        """Directory that holds all of this instance's pins."""
        return self.bpffs / "kubebee"

    def prepare(self) -> None:
        """Make the instance's directories.

        Raises:
            PinError: no bpf file system is mounted there.
        """
        if not is_bpffs(self.bpffs):
            raise PinError(
                "no bpf file system is mounted there",
                reason="BpffsMissing",
                where=str(self.bpffs),
                hint=f"mount -t bpf bpf {self.bpffs}",
            )
        for part in ("m", "p", "l"):
            (self.root / part).mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self) -> int:
        """Take this instance for one process; the lock goes with the process.

        Returns:
            The file descriptor that holds the lock.

        Raises:
            PinError: another process has it.
        """
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise PinError(
                "another kubebee process already runs this instance",
                reason="InstanceInUse",
                where=str(self.root),
                hint="stop the other one, or give this one its own bpf file system with --bpffs",
            ) from None
        return fd

    def holds(self, lock: int) -> bool:
        """Whether a lock is on the directory that is there now: removed and made anew, it is another one."""
        try:
            return os.path.samestat(os.fstat(lock), self.root.stat())
        except FileNotFoundError:
            return False

    def map(self, key: ResourceKey, name: str, schema: str) -> Path:
        """Pin of a map; a map with another schema is another pin."""
        return self._in("m", key) / f"{escape(name)}@{schema[:HASH_CHARS]}"

    def program(self, key: ResourceKey, function: str, load_hash: str) -> Path:
        """Pin of a program."""
        return self._in("p", key) / f"{escape(function)}@{load_hash[:HASH_CHARS]}"

    def chain_object(self, key: ResourceKey, load_hash: str) -> Path:
        """Pin of the map that holds what a chain's program was loaded from, see loader.chain_object."""
        return self.map(key, chain_object.NAME, load_hash)

    def filter_object(self, key: ResourceKey, function: str, load_hash: str) -> Path:
        """Pin of the map that holds what a program of tc was loaded from, see loader.filter_object."""
        return self.map(key, f"{chain_object.NAME}-{function}", load_hash)

    def link(self, key: ResourceKey, function: str, target: str, load_hash: str, generation: int) -> Path:
        """Pin of a link of `function` at `target` (see loader.targets for target keys)."""
        name = f"{escape(function)}@{escape(target)}@{load_hash[:HASH_CHARS]}@g{generation}"
        return self._in("l", key) / name

    def _in(self, part: str, key: ResourceKey) -> Path:
        return self.root / part / unit_directory(key)

    def qdisc(self, ifindex: int) -> Path:
        """Mark of a qdisc that we made; no pin, as bpf file systems have none for those."""
        return self.root / "q" / str(ifindex)

    def qdiscs(self) -> Iterator[Path]:
        """Marks of all qdiscs that we made."""
        yield from sorted((self.root / "q").glob("*"))

    def rename_unit(self, old: ResourceKey, new: ResourceKey) -> None:
        """Let everything of a unit be another's, of which nothing is pinned."""
        for part in ("m", "p", "l"):
            if self._in(part, old).is_dir():
                self._in(part, old).rename(self._in(part, new))

    def all_pins(self) -> Iterator[Path]:
        """Every pinned object of this instance, links first: what is attached goes before what it uses."""
        for part in ("l", "p", "m"):
            yield from (path for path in sorted((self.root / part).glob("*/*")))

    def links(self) -> Iterator[LinkPin]:
        """Every pinned link, decoded; files with names of another layout are skipped."""
        yield from _decoded((self.root / "l").glob("*/*"))

    def links_of(self, key: ResourceKey) -> Iterator[LinkPin]:
        """Every pinned link of one unit."""
        yield from _decoded(self._in("l", key).glob("*"))

    def links_by_place(self, key: ResourceKey) -> dict[tuple[str, str], LinkPin]:
        """Every pinned link of one unit by `pinned_place`; of two the one whose name sorts last."""
        return {pin.place: pin for pin in self.links_of(key)}

    def maps_of(self, key: ResourceKey) -> dict[str, list[Path]]:
        """Pins of a unit's maps by map name, all schemas."""
        return _by_name(self._in("m", key))

    def programs_of(self, key: ResourceKey) -> dict[str, list[Path]]:
        """Pins of a unit's programs by function, all versions."""
        return _by_name(self._in("p", key))

    def remove_empty(self) -> None:
        """Remove directories of units that have nothing pinned any more."""
        for directory in self.root.glob("*/*"):
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def remove_all(self) -> None:
        """Unpin everything and remove the instance's directory: programs go when their last link goes."""
        for path in self.all_pins():
            path.unlink(missing_ok=True)
        self.remove_empty()
        for mark in self.qdiscs():
            mark.unlink(missing_ok=True)
        for part in ("l", "p", "m", "q"):
            directory = self.root / part
            if directory.is_dir():
                directory.rmdir()
        if self.root.is_dir():
            self.root.rmdir()


def _by_name(directory: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(directory.glob("*")):
        found.setdefault(unquote(path.name.partition("@")[0]), []).append(path)
    return found


def _decoded(paths: Iterable[Path]) -> Iterator[LinkPin]:
    for path in sorted(paths):
        parts = path.name.split("@")
        if len(parts) == 4 and parts[3].startswith("g") and parts[3][1:].isdigit():
            function, target, load_hash, generation = parts
            yield LinkPin(
                path, path.parent.name, unquote(function), unquote(target), load_hash, int(generation[1:])
            )

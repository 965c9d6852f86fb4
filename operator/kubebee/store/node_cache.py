"""What a loader in a cluster keeps on its node's disk: with it a restart needs no API server.

Layout below the folder::

    plan.json           the last spec that the kernel had, and which version of each resource was in force
    bundles/<digest>    the bundles of both: name of the key, a line feed, the bytes
    happenings.json     what happened lately, newest last
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kubebee.planner.nodes import Ref
from kubebee.store.node_plan import Wanted
from kubebee.store.state import EventRecord

FORMAT = 1


class SavedPlan(msgspec.Struct, frozen=True):
    """What the node ran.

    Attributes:
        node: whose plan it is: a disk may be copied to another machine.
        in_force: differs from `wanted` where a new version could not be acted on.
    """

    format: int
    node: str
    wanted: Wanted
    in_force: tuple[Ref, ...]


class NodeCache:
    """Files of one node, each replaced whole and on the disk before it counts.

    Args:
        directory: is made when something is written.
        node: name of the node.
    """

    def __init__(self, directory: Path, node: str) -> None:
        self._directory = directory
        self._node = node

    def plan(self) -> SavedPlan | None:
        """The plan that was kept; None if there is none to read, or it is another node's."""
        try:
            plan = msgspec.json.decode((self._directory / "plan.json").read_bytes(), type=SavedPlan)
        except (OSError, msgspec.DecodeError):
            return None
        return plan if (plan.format, plan.node) == (FORMAT, self._node) else None

    def save_plan(self, wanted: Wanted, in_force: Iterable[Ref]) -> None:
        """Keep a plan and drop bundles that are not in it.

        Raises:
            OSError: it can't be written.
        """
        plan = SavedPlan(FORMAT, self._node, wanted, tuple(in_force))
        self._write(self._directory / "plan.json", msgspec.json.encode(plan))
        kept = {ref.hash for ref in (*wanted.bundles, *plan.in_force)}
        for path in (self._directory / "bundles").glob("*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def bundle(self, digest: str) -> tuple[str, bytes] | None:
        """Key and bytes of a bundle; None if it is not here."""
        try:
            name, _, raw = self._bundle_path(digest).read_bytes().partition(b"\n")
        except OSError:
            return None
        return name.decode(errors="replace"), raw

    def has_bundle(self, digest: str) -> bool:
        """Whether a bundle is here, in whatever state."""
        return self._bundle_path(digest).exists()

    def save_bundle(self, digest: str, data: tuple[str, bytes]) -> None:
        """Keep a bundle.

        Raises:
            OSError: it can't be written.
        """
        self._write(self._bundle_path(digest), data[0].encode() + b"\n" + data[1])

    def drop_bundle(self, digest: str) -> None:
        """Forget a bundle that is damaged."""
        with contextlib.suppress(OSError):
            self._bundle_path(digest).unlink()

    def happenings(self) -> list[EventRecord]:
        """What earlier runs kept."""
        try:
            raw = (self._directory / "happenings.json").read_bytes()
            return msgspec.json.decode(raw, type=list[EventRecord])
        except (OSError, msgspec.DecodeError):
            return []

    def save_happenings(self, records: list[EventRecord]) -> None:
        """Keep what happened.

        Raises:
            OSError: it can't be written.
        """
        self._write(self._directory / "happenings.json", msgspec.json.encode(records))

    def _bundle_path(self, digest: str) -> Path:
        return self._directory / "bundles" / (digest if digest.isalnum() else "invalid")

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
        temporary.replace(path)

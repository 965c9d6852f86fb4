"""What the directory store keeps beside the manifests: accepted resources, statuses and events.

Layout below `DIR/.kubebee/`::

    accepted/<Kind>/<name>.json   last valid version, its generation and the file it came from
    status/<Kind>/<name>.yaml     the resource's status, shaped as kubectl shows it
    events.json                   recent Events, newest last
    services.json                 how many Services are served, and what is wrong with some
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import yaml

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STEM_MAX = 200


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The last valid version of a resource, as its manifest had it."""

    kind: str
    name: str
    source: str
    generation: int
    created: str
    manifest: dict[str, object]


class EventRecord(msgspec.Struct, kw_only=True, rename="camel"):
    """A Kubernetes-shaped Event; repeats raise `count` (core/v1 Event, the fields kubectl shows)."""

    kind: str
    name: str
    type: str
    reason: str
    message: str
    count: int
    first_timestamp: str
    last_timestamp: str


def _file_stem(name: str) -> str:
    """A name of up to 253 characters as part of a file name, which ends at 255 with all that is added."""
    stem = quote(name, safe="")
    if len(stem) <= _STEM_MAX:
        return stem
    return f"{stem[:_STEM_MAX]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


class ServicesRecord(msgspec.Struct, kw_only=True, rename="camel"):
    """What there is to say of Services.

    Attributes:
        synced: all of them are known.
        left_out: addresses with port that something else has; at most some of them are named.
        warnings: what can't be acted on, in the same way.
    """

    synced: bool
    services: int
    endpoints: int
    frontends: int
    host_ports: int = 0
    left_out_count: int
    left_out: list[str]
    warnings_count: int
    warnings: list[str]


class StateDirectory:
    """Files of one store, each replaced whole so that a reader never sees half of one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def load_accepted(self) -> dict[tuple[str, str], Accepted]:
        """All accepted resources; a file that can't be read is dropped: its manifest will be read anew."""
        found = {}
        for path in sorted((self.root / "accepted").glob("*/*.json")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Accepted)
            except (OSError, msgspec.DecodeError):
                continue
            found[record.kind, record.name] = record
        return found

    def save_accepted(self, record: Accepted) -> None:
        """Keep `record` over a restart."""
        self._write(self._path("accepted", record.kind, record.name, "json"), msgspec.json.encode(record))

    def forget(self, kind: str, name: str) -> None:
        """Drop all that is kept of a resource."""
        self._path("accepted", kind, name, "json").unlink(missing_ok=True)
        self._path("status", kind, name, "yaml").unlink(missing_ok=True)

    def save_status(self, kind: str, name: str, document: dict[str, object]) -> None:
        """Write a resource's status document; that of a node as JSON, which is YAML too.

        It names all resources and changes with each of them: of 100 it takes PyYAML 30 ms to write it.
        """
        if kind == "BpfNode":
            data = msgspec.json.format(msgspec.json.encode(document), indent=2)
        else:
            text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
            data = text.encode()
        self._write(self._path("status", kind, name, "yaml"), data)

    def statuses(self) -> Iterator[dict[str, Any]]:
        """Every status document, by kind and name."""
        for path in sorted((self.root / "status").glob("*/*.yaml")):
            with contextlib.suppress(FileNotFoundError):  # deleted just now
                data = path.read_bytes()
                yield msgspec.json.decode(data) if data[:1] == b"{" else yaml.load(data, Loader=_Loader)  # noqa: S506

    def save_events(self, events: list[EventRecord]) -> None:
        """Write the recent events."""
        self._write(self.root / "events.json", msgspec.json.format(msgspec.json.encode(events), indent=1))

    def save_services(self, record: ServicesRecord | None) -> None:
        """Write what there is to say of Services; None: nobody wants any."""
        path = self.root / "services.json"
        if record is None:
            path.unlink(missing_ok=True)
        else:
            self._write(path, msgspec.json.format(msgspec.json.encode(record), indent=1))

    def load_services(self) -> ServicesRecord | None:
        """What was written last; None if there is nothing."""
        try:
            return msgspec.json.decode((self.root / "services.json").read_bytes(), type=ServicesRecord)
        except (OSError, msgspec.DecodeError):
            return None

    def load_events(self) -> list[EventRecord]:
        """Events of earlier runs; empty if there are none to read."""
        try:
            return msgspec.json.decode((self.root / "events.json").read_bytes(), type=list[EventRecord])
        except (OSError, msgspec.DecodeError):
            return []

    def _path(self, part: str, kind: str, name: str, suffix: str) -> Path:
        return self.root / part / quote(kind, safe="") / f"{_file_stem(name)}.{suffix}"

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(path)

"""DirectoryStore: a folder of YAML as the source of resources, with what an API server would add.

It gives each resource a generation, refuses what is invalid without losing the version before it, and keeps
statuses and Events beside the manifests (see store.state).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kubebee.errors import KubebeeError
from kubebee.lb.services.intake import DEFAULT_NAMESPACE
from kubebee.lb.services.objects import (
    PodObject,
    ServiceObject,
    SliceObject,
    pod_from,
    service_from,
    slice_from,
)
from kubebee.planner.declared import Declared
from kubebee.planner.plan import ResourceKey
from kubebee.store.manifests import (
    SUFFIXES,
    Document,
    ManifestError,
    alike,
    alike_as_json,
    parse_documents,
    read_text,
)
from kubebee.store.remembered import Remembered
from kubebee.store.snapshot import Rejected, Snapshot
from kubebee.store.state import Accepted, EventRecord, ServicesRecord, StateDirectory
from kubebee.store.valid import Valid, validate

KINDS = frozenset({"BpfProgram", "ServiceLB", "HostPolicy"})
ClusterObject = ServiceObject | SliceObject | PodObject
"""What a cluster has of itself; here it is written by hand."""
_CLUSTER_KINDS: Mapping[str, Callable[[object, str], ClusterObject]] = {
    "Service": service_from,
    "EndpointSlice": slice_from,
    "Pod": pod_from,
}
QUIET_SECONDS = 0.2
"""A file that lost documents and was written so lately may not be written to its end."""
REWATCH_SECONDS = 0.5
_ENDINGS = tuple(SUFFIXES)
DATA_LINK = "..data"
"""What the kubelet exchanges when a ConfigMap that is mounted as a volume changes."""
_TICK_NS = (
    20_000_000  # more than the step of file times where the kernel takes them from the timer (before 6.13)
)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells one state of a file from another; the change time, unlike the other, nobody can set back."""

    inode: int = 0
    size: int = 0
    modified: int = 0
    changed: int = 0

    @classmethod
    def of(cls, path: os.DirEntry[str]) -> _Stamp | None:
        """Stamp of a file as it is now, None if it is gone."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        except OSError:  # reading it will say why
            return cls()
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def younger_than(self, nanoseconds: int) -> bool:
        """Whether the last change was so lately; one that lies in the future was not."""
        return 0 <= time.time_ns() - self.changed < nanoseconds


@dataclass(frozen=True, slots=True)
class _Entry:
    """A document, read once: what it is called and what came of validating it."""

    document: Document
    name: tuple[str, str] | None
    outcome: Valid | ClusterObject | KubebeeError | None  # None: a ConfigMap
    before: ClusterObject | None = None  # the last valid version, if this one is not

    @property
    def file(self) -> str:
        return self.document.where.partition("#")[0]

    @property
    def cluster_object(self) -> ClusterObject | None:
        """The Service, EndpointSlice or Pod that is in force by this document."""
        return self.outcome if isinstance(self.outcome, ClusterObject) else self.before


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read.

    Attributes:
        digest: of its bytes.
        remembered: parts of it by their text.
        racy: it may have changed since without its times saying so.
    """

    stamp: _Stamp
    entries: tuple[_Entry, ...] = ()
    error: ManifestError | None = None
    racy: bool = False
    digest: bytes = b""
    remembered: Remembered = field(default_factory=Remembered)

    def lacks_any_of(self, before: _File) -> bool:
        """Whether a document is not there any more."""
        names = {entry.name for entry in self.entries}
        return any(entry.name not in names for entry in before.entries)


class DirectoryStore:
    """Reads a folder of manifests; see the module's docstring.

    Args:
        directory: the folder; files `*.yaml`, `*.yml` and `*.json` in it are read, not its sub-folders.
        now: the clock, RFC 3339 text with fractions: of two claims on one thing the older wins.
    """

    def __init__(self, directory: Path, now: Callable[[], str]) -> None:
        self.directory = directory
        self.state = StateDirectory(directory / ".kubebee")
        self._now = now
        self._files: dict[str, _File] = {}
        self._accepted = self.state.load_accepted()
        self._parsed: dict[tuple[str, str], Valid] = {}
        self._refused: dict[tuple[str, str], tuple[_Entry, int]] = {}
        self._unsaved: dict[tuple[str, str], Accepted] = {}

    def scan(self) -> Snapshot:
        """Read what changed since the last scan and say what is in force now.

        Raises:
            ManifestError: the folder itself can't be read.
        """
        unfinished = self._refresh()
        rejected: list[Rejected] = []
        seen: dict[tuple[str, str], str] = {}
        config_maps: dict[tuple[str, str], dict[str, str]] = {}
        objects: dict[tuple[str, str], ClusterObject] = {}
        for entry in self._entries_oldest_first():
            if entry.outcome is None:
                config_maps[_config_map_key(entry.document.body)] = _config_map_data(entry.document.body)
                continue
            if entry.cluster_object is not None and entry.name is not None:
                objects.setdefault(entry.name, entry.cluster_object)
            refusal = self._take(entry, seen)
            if refusal is not None:
                rejected.append(refusal)
        for name, file in self._files.items():
            rejected += self._unreadable(name, file)
        self._drop_missing(set(seen))
        again = QUIET_SECONDS if unfinished else 0.0
        return Snapshot(
            tuple(self._stored()),
            config_maps,
            tuple(rejected),
            again,
            services=tuple(one for one in objects.values() if isinstance(one, ServiceObject)),
            slices=tuple(one for one in objects.values() if isinstance(one, SliceObject)),
            pods=tuple(one for one in objects.values() if isinstance(one, PodObject)),
        )

    def stale(self) -> bool:
        """Whether a file is not what it was at the last scan: no event tells of edits behind links."""
        try:
            now = dict(self._listed())
        except OSError:
            return False
        return now != {name: file.stamp for name, file in self._files.items()}

    def _unreadable(self, name: str, file: _File) -> list[Rejected]:
        """What a file that can't be read means: its resources keep their versions, and each says why."""
        if file.error is None:
            return []
        known = [record for record in self._accepted.values() if record.source == name]
        if not known:
            return [Rejected(None, file.error)]
        return [Rejected(ResourceKey(r.kind, r.name), file.error, r.generation) for r in known]

    def _entries_oldest_first(self) -> list[_Entry]:
        """Documents in order of file name, those of already accepted resources first.

        So a newcomer of the same name is the one to be refused.
        """

        def newcomer(entry: _Entry) -> bool:
            record = self._accepted.get(entry.name or ("", ""))
            return record is None or record.source != entry.file

        return sorted((e for _, file in sorted(self._files.items()) for e in file.entries), key=newcomer)

    def _take(self, entry: _Entry, seen: dict[tuple[str, str], str]) -> Rejected | None:
        name = entry.name
        if name is not None and name in seen:
            error = ManifestError(
                f"{name[0]} {name[1]} is already defined in {seen[name]}",
                reason="DuplicateResource",
                where=entry.document.where,
                hint="rename or remove one of the two",
            )
            return Rejected(None, error)
        if isinstance(entry.outcome, KubebeeError):
            if name is None or name[0] not in KINDS or entry.outcome.reason == "InvalidName":
                return Rejected(None, entry.outcome)
            seen[name] = entry.document.where
            return Rejected(ResourceKey(*name), entry.outcome, self._refused_generation(name, entry))
        assert name is not None
        seen[name] = entry.document.where
        if isinstance(entry.outcome, Valid):
            self._accept(name, entry.outcome, entry)
        return None

    def _refused_generation(self, key: tuple[str, str], entry: _Entry) -> int:
        """The number of an edit that is not taken: each edit has one of its own, as on an API server."""
        known = self._refused.get(key)
        if known is None or known[0] is not entry:
            known = self._refused[key] = (entry, self._last_generation(key) + 1)
        return known[1]

    def _last_generation(self, key: tuple[str, str]) -> int:
        accepted, refused = self._accepted.get(key), self._refused.get(key)
        return max(accepted.generation if accepted else 0, refused[1] if refused else 0)

    def _accept(self, key: tuple[str, str], valid: Valid, entry: _Entry) -> None:
        body = entry.document.body
        assert isinstance(body, dict)
        before = self._accepted.get(key)
        known = before is not None and before.source == entry.file and key not in self._refused
        if known and self._parsed.get(key) is valid:
            return
        same = alike if key in self._parsed else alike_as_json  # what an earlier run kept is JSON
        spec_stays = before is not None and same(before.manifest.get("spec"), body.get("spec"))
        rest_stays = before is not None and same(_beside_spec(before.manifest), _beside_spec(body))
        if before and spec_stays and key not in self._refused:
            generation = before.generation
        else:
            generation = self._last_generation(key) + 1
            self._refused.pop(key, None)
        record = self._accepted[key] = Accepted(
            kind=key[0],
            name=key[1],
            source=entry.file,
            generation=generation,
            created=before.created if before else self._now(),
            manifest={**_beside_spec(body), "spec": body.get("spec")},
        )
        if not (known and spec_stays and rest_stays):
            self._unsaved[key] = record
        self._parsed[key] = valid

    def save(self) -> None:
        """Keep what was accepted over a restart; call it once the kernel has it, as a disk may be slow.

        Raises:
            OSError: a file can't be written; it is tried again at the next call.
        """
        for key, record in list(self._unsaved.items()):
            self.state.save_accepted(record)
            del self._unsaved[key]

    def publish(self, key: ResourceKey, document: dict[str, object]) -> None:
        """Write a status beside the manifests.

        Raises:
            OSError: it can't be written.
        """
        self.state.save_status(key.kind, key.name, document)

    def publish_events(self, events: list[EventRecord]) -> None:
        """Write the recent Events beside the manifests.

        Raises:
            OSError: they can't be written.
        """
        self.state.save_events(events)

    def publish_services(self, record: ServicesRecord | None) -> None:
        """Write what there is to say of Services beside the manifests.

        Raises:
            OSError: it can't be written.
        """
        self.state.save_services(record)

    def earlier_events(self) -> list[EventRecord]:
        """Events of earlier runs."""
        return self.state.load_events()

    def _drop_missing(self, seen: set[tuple[str, str]]) -> None:
        broken = {name for name, file in self._files.items() if file.error is not None}
        for key in [k for k in self._accepted if k not in seen]:
            if self._accepted[key].source in broken:
                continue  # its file can't be read just now: that is no wish to delete it
            del self._accepted[key]
            self._parsed.pop(key, None)
            self._refused.pop(key, None)
            self._unsaved.pop(key, None)
            with contextlib.suppress(OSError):
                self.state.forget(*key)

    def _stored(self) -> list[Declared]:
        stored = []
        for key, record in sorted(self._accepted.items()):
            valid = self._parsed.get(key)
            if valid is None:
                try:
                    valid = self._parsed[key] = validate(record.manifest, record.source)
                except KubebeeError:
                    continue  # accepted by another version of kubebee; reported through its manifest
            declared = Declared(
                ResourceKey(*key), valid.resource, record.generation, record.created, valid.prepared
            )
            stored.append(declared)
        return stored

    def _refresh(self) -> bool:
        """Read files that changed; True if one of them seems half written, and counts as it was before."""
        unfinished = False
        files: dict[str, _File] = {}
        try:
            listed = list(self._listed())
        except OSError as error:
            raise ManifestError(
                f"can't be read: {error.strerror}",
                where=str(self.directory),
                hint="name a folder of manifests",
            ) from error
        for name, stamp in listed:
            known = self._files.get(name)
            if known and known.stamp == stamp and not known.racy:
                files[name] = known
                continue
            read = _read(self.directory / name, stamp, known, self._parsed)
            if known and _half_written(read, known):
                unfinished, read = True, known
            files[name] = read
        self._files = files
        return unfinished

    def _listed(self) -> Iterator[tuple[str, _Stamp]]:
        with os.scandir(self.directory) as listed:  # a Path for each takes three times as long
            for entry in listed:
                if entry.name.endswith(_ENDINGS) and not entry.name.startswith("."):
                    stamp = _Stamp.of(entry)
                    if stamp is not None:
                        yield entry.name, stamp

    async def changes(self) -> AsyncIterator[None]:
        """Yield once for each burst of changes in the folder; goes on if the folder is made anew."""
        from asyncinotify import Inotify, Mask

        interesting = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR
        gone = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED
        while True:
            with Inotify() as inotify:
                try:
                    inotify.add_watch(self.directory, interesting | Mask.DELETE_SELF | Mask.MOVE_SELF)
                except OSError:  # it is not there just now; or the user has no watch left: `stale` will do
                    await asyncio.sleep(REWATCH_SECONDS)
                    continue
                if self.stale():  # what changed before it was watched again
                    yield
                async for event in inotify:
                    name = str(event.name or "")
                    if not name.startswith(".") or name == DATA_LINK:  # hidden files are not read
                        yield
                    if event.mask & gone:
                        break


def _half_written(read: _File, before: _File) -> bool:
    """Whether a file seems caught while somebody writes it in place: nothing is deleted because of that."""
    return (
        read.error is None
        and read.stamp.inode == before.stamp.inode
        and read.lacks_any_of(before)
        and read.stamp.younger_than(int(QUIET_SECONDS * 1e9))
    )


def _read(path: Path, stamp: _Stamp, known: _File | None, valid: Mapping[tuple[str, str], Valid]) -> _File:
    """A file as it is now; what is as in `known`, or in the versions in force, is not validated again."""
    racy = stamp.younger_than(_TICK_NS)
    try:
        raw = read_text(path)
        digest = hashlib.sha256(raw).digest()
        if known and known.error is None and known.digest == digest:
            return replace(known, stamp=stamp, racy=racy)  # only touched
        remembered = Remembered(known.remembered if known else None)
        documents = parse_documents(path.name, raw, remembered)
    except ManifestError as error:
        # What resources were is kept elsewhere; Services that can't be read just now are not gone either.
        kept = tuple(entry for entry in known.entries if entry.cluster_object is not None) if known else ()
        return _File(stamp, kept, error, racy, remembered=known.remembered if known else Remembered())
    before = {entry.name: entry for entry in known.entries} if known else {}
    entries = tuple(_entry(document, before, valid) for document in documents)
    return _File(stamp, entries, None, racy, digest, remembered.end())


def _entry(
    document: Document,
    before: Mapping[tuple[str, str] | None, _Entry],
    valid: Mapping[tuple[str, str], Valid],
) -> _Entry:
    name = _name_of(document.body)
    known = before.get(name)
    if known and known.document.where == document.where and alike(known.document.body, document.body):
        return known
    if name and name[0] == "ConfigMap":
        return _Entry(document, name, None)
    if name and name[0] in _CLUSTER_KINDS:
        try:
            return _Entry(document, name, _CLUSTER_KINDS[name[0]](document.body, document.where))
        except KubebeeError as error:
            return _Entry(document, name, error, known.cluster_object if known else None)
    try:
        return _Entry(document, name, validate(document.body, document.where, valid.get(name or ("", ""))))
    except KubebeeError as error:
        return _Entry(document, name, error)


def _name_of(body: object) -> tuple[str, str] | None:
    """(kind, name) if the document has both, whatever else is wrong with it."""
    if not isinstance(body, dict):
        return None
    metadata = body.get("metadata")
    kind, name = body.get("kind"), metadata.get("name") if isinstance(metadata, dict) else None
    if not (isinstance(kind, str) and isinstance(name, str) and isinstance(metadata, dict)):
        return None
    if kind in _CLUSTER_KINDS:
        name = f"{metadata.get('namespace') or DEFAULT_NAMESPACE}/{name}"
    return kind, name


def _beside_spec(manifest: dict[str, object]) -> dict[str, object]:
    """All but the spec, and a status that somebody left in the manifest: it may be anything."""
    return {name: value for name, value in manifest.items() if name not in ("spec", "status")}


def _config_map_key(body: object) -> tuple[str, str]:
    assert isinstance(body, dict)
    metadata = body["metadata"]
    return str(metadata.get("namespace", "default")), str(metadata["name"])


def _config_map_data(body: object) -> dict[str, str]:
    assert isinstance(body, dict)
    data = body.get("data")
    return {str(k): v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}

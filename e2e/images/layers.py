"""What is in an image's layers, file by file, and how two images differ."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from images.build import Image

_SHOWN = 20


def diff_ids(archive: Path) -> list[str]:
    """Digests of the layers' contents, from the bottom, as the image's own configuration has them."""
    with tarfile.open(archive) as file:
        return list(_configuration(file)["rootfs"]["diff_ids"])


def files(archive: Path) -> Iterator[tuple[int, str, str]]:
    """(layer, path, everything that makes a file the same) of every file."""
    with tarfile.open(archive) as outer:
        for number, name in enumerate(_manifest(outer)["Layers"]):
            blob = outer.extractfile(name)
            assert blob is not None
            with tarfile.open(fileobj=blob, mode="r|*") as layer:
                for member in layer:
                    yield number, member.name, _fingerprint(layer, member)


def compare(one: Image, other: Image) -> list[str]:
    """Differences, a line each; empty if all layers are the same to the byte."""
    if diff_ids(one.archive) == diff_ids(other.archive):
        return []
    first, second = (
        {(layer, path): mark for layer, path, mark in files(image.archive)} for image in (one, other)
    )
    lines = [
        f"{one.name}: layer {place[0]}: {place[1]}: {first.get(place, '-')} / {second.get(place, '-')}"
        for place in sorted(first.keys() | second.keys())
        if first.get(place) != second.get(place)
    ]
    return lines[:_SHOWN] or [f"{one.name}: the same files in another order"]


def _fingerprint(layer: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = layer.extractfile(member) if member.isfile() else None
    digest = hashlib.sha256(content.read()).hexdigest()[:16] if content else member.linkname
    return f"{member.mode:o} {member.uid}:{member.gid} {member.mtime:.0f} {digest}"


def _manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    (only,) = _json(archive, "manifest.json")
    return dict(only)


def _configuration(archive: tarfile.TarFile) -> dict[str, Any]:
    return dict(_json(archive, _manifest(archive)["Config"]))


def _json(archive: tarfile.TarFile, name: str) -> Any:
    content = archive.extractfile(name)
    assert content is not None
    return json.load(content)

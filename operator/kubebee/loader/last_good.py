"""The last version of each unit that ran, kept over a restart.

Without it, an edit that breaks a program while the loader is down would take the old version with it: the
new one can't be built, and what the old one was made of would be known to nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kubebee.loader.pins import unit_directory
from kubebee.loader.unit import Unit
from kubebee.planner.plan import ResourceKey


class LastGood:
    """Units by name in one directory, each replaced whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, unit: Unit) -> None:
        """Remember `unit` as the one that runs; a full disk only costs the protection."""
        path, data = self._path(unit.key), _adapter().dump_json(unit)
        with contextlib.suppress(OSError):
            if path.read_bytes() == data:  # as at most restarts: reading costs a tenth of exchanging a file
                return
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            temporary.write_bytes(data)
            temporary.replace(path)

    def load(self, key: ResourceKey) -> Unit | None:
        """The version that ran, None if unknown."""
        try:
            return _adapter().validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None

    def rename(self, old: ResourceKey, new: ResourceKey) -> None:
        """Know a unit by another name."""
        unit = self.load(old)
        if unit is not None:
            self.save(replace(unit, key=new))
            self._path(old).unlink(missing_ok=True)

    def keep_only(self, keys: Iterable[ResourceKey]) -> None:
        """Forget all other resources: one that is made anew under an old name has no past."""
        kept = {self._path(key) for key in keys}
        for path in self._directory.glob("*.json"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, key: ResourceKey) -> Path:
        return self._directory / f"{unit_directory(key)}.json"


_cached: list[TypeAdapter[Unit]] = []


def _adapter() -> TypeAdapter[Unit]:
    if not _cached:
        _cached.append(TypeAdapter(Unit))
    return _cached[0]

"""Reading manifest files: text to documents, with the place of each error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import msgspec
import yaml

from kubebee.errors import KubebeeError

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_FILE_BYTES = 64 * 1024 * 1024
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ManifestError(KubebeeError):
    """A manifest file can't be read or is not what it claims to be."""

    reason = "InvalidManifest"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a manifest file.

    Attributes:
        where: file and index for messages, e.g. `lb.yaml#2` (1-based; the index is left out for a lone one).
    """

    body: object
    where: str


def read_documents(path: Path) -> list[Document]:
    """Documents of one YAML or JSON file; a Kubernetes List counts as its items.

    Raises:
        ManifestError: unreadable, too large, not UTF-8, or not YAML; says line and column.
    """
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):  # reading a pipe or a device may never end
            raise ManifestError("not a file", reason="NotAFile", where=path.name)
        size = stat.st_size
        if size > MAX_FILE_BYTES:
            raise ManifestError(
                f"{size} bytes; at most {MAX_FILE_BYTES} are read", reason="ManifestTooLarge", where=path.name
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"can't be read: {error.strerror}", where=path.name) from error
    bodies = _parse_json(path, raw) if path.suffix == ".json" else _parse_yaml(path, raw)
    items = [item for body in bodies for item in _items(body)]
    return [
        Document(item, path.name if len(items) == 1 else f"{path.name}#{index}")
        for index, item in enumerate(items, 1)
    ]


def _parse_json(path: Path, raw: bytes) -> list[object]:
    try:
        return [msgspec.json.decode(raw)]
    except msgspec.DecodeError as error:
        raise ManifestError(f"not JSON: {error}", reason="InvalidJSON", where=path.name) from error


def _parse_yaml(path: Path, raw: bytes) -> list[object]:
    if raw[:1] == b"{":  # JSON is YAML too, and JSON parsers are some hundred times faster
        try:
            return [msgspec.json.decode(raw)]
        except msgspec.DecodeError:
            pass
    try:
        return [body for body in yaml.load_all(raw, Loader=_Loader) if body is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path.name}:{mark.line + 1}:{mark.column + 1}" if mark else path.name
        raise ManifestError(
            f"not YAML: {error.problem or error}", reason="InvalidYAML", where=place, hint="mend this line"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"not YAML: {error}", reason="InvalidYAML", where=path.name) from error


def _items(body: object) -> list[object]:
    if isinstance(body, dict) and body.get("kind") == "List" and isinstance(body.get("items"), list):
        return list(body["items"])
    return [body]

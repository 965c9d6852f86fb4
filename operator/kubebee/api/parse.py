"""From a YAML document to a resource, or to an error that names every bad field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import ValidationError

from kubebee.api.problems import Problem, problems
from kubebee.api.v1alpha1.common import API_VERSION, GROUP, ObjectMeta, StatusModel
from kubebee.api.v1alpha1.resources import KINDS, AnyResource, status_model
from kubebee.errors import KubebeeError

_KINDS: dict[str, type[AnyResource]] = {kind.__name__: kind for kind in KINDS}
_SHOWN = 10
_NAME_HINT = "a name has at most 253 characters: lower-case letters, digits, '-' and single '.'"


class SpecError(KubebeeError):
    """A document is not a valid resource; only an edit can fix it.

    Attributes:
        problems: every bad field with what was expected, at most `problems.MOST`.
        kind, name: identity of the resource as far as it could be read, else empty.
        generation: of the document, 0 where the store has none.
    """

    reason = "InvalidSpec"

    def __init__(
        self,
        found: Sequence[Problem],
        *,
        reason: str = "",
        where: str = "",
        hint: str = "",
        identity: Identity | None = None,
    ) -> None:
        lines = [str(problem) for problem in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"and {len(found) - _SHOWN} more")
        super().__init__("; ".join(lines), reason=reason or _reason(found), where=where, hint=hint)
        self.problems = tuple(found)
        identity = identity or Identity()
        self.kind, self.name, self.generation = identity.kind, identity.name, identity.generation


@dataclass(frozen=True, slots=True)
class Identity:
    """Which resource a document is, as far as it can be told."""

    kind: str = ""
    name: str = ""
    generation: int = 0


def identity_of(document: object) -> Identity:
    """Read kind, name and generation of a document that may be invalid in any way."""
    if not isinstance(document, dict):
        return Identity()
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kind, name, generation = document.get("kind"), metadata.get("name"), metadata.get("generation")
    return Identity(
        kind if isinstance(kind, str) else "",
        name if isinstance(name, str) else "",
        generation if isinstance(generation, int) else 0,
    )


def parse_resource(document: object, where: str = "") -> AnyResource:
    """Return the resource that a parsed YAML or JSON document describes.

    A status that this version cannot read is left out: it is rewritten from what the nodes report.

    Args:
        document: what the YAML parser returned.
        where: the document's place for error messages, such as a file name.

    Raises:
        SpecError: with reason UnknownKind, UnsupportedVersion, InvalidName, UnknownField or InvalidSpec.
    """
    identity = identity_of(document)
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise SpecError([Problem("", f"expected an object, got {kind}")], where=where)
    model = _model(document, identity, where)
    fields = {str(name): value for name, value in document.items() if name != "status"}
    _check_name(fields.get("metadata"), identity, where)
    try:
        resource = model.model_validate(fields)
    except ValidationError as error:
        found = problems(error, model, fields)
        raise SpecError(found, where=where, identity=identity) from error
    status = _readable_status(model, document.get("status"))
    return resource.model_copy(update={"status": status}) if status else resource


def _model(document: dict[object, object], identity: Identity, where: str) -> type[AnyResource]:
    version = document.get("apiVersion")
    if version != API_VERSION:
        ours = isinstance(version, str) and version.startswith(f"{GROUP}/")
        raise SpecError(
            [Problem("apiVersion", f"is {version!r}, expected {API_VERSION!r}")],
            reason="UnsupportedVersion" if ours else "UnknownKind",
            where=where,
            identity=identity,
        )
    model = _KINDS.get(identity.kind)
    if model is None:
        close = get_close_matches(identity.kind, _KINDS, n=1)
        raise SpecError(
            [Problem("kind", f"{document.get('kind')!r} is not one of {', '.join(_KINDS)}")],
            reason="UnknownKind",
            where=where,
            hint=f"did you mean {close[0]}?" if close else "",
            identity=identity,
        )
    return model


def _check_name(metadata: object, identity: Identity, where: str) -> None:
    """Metadata first: with a bad name, nothing else about the resource can be told to anybody."""
    try:
        ObjectMeta.model_validate(metadata)
    except ValidationError as error:
        found = [
            Problem(f"metadata.{problem.path}".rstrip("."), problem.message, problem.unknown)
            for problem in problems(error, ObjectMeta, metadata)
        ]
        nameless = any(problem.path in ("metadata", "metadata.name") for problem in found)
        raise SpecError(
            found,
            reason="InvalidName" if nameless else "",
            where=where,
            hint=_NAME_HINT if nameless else "",
            identity=identity,
        ) from error


def _readable_status(model: type[AnyResource], status: object) -> StatusModel | None:
    if status is None:
        return None
    try:
        return status_model(model).model_validate(status)
    except ValidationError:
        return None


def _reason(found: Sequence[Problem]) -> str:
    return "UnknownField" if found and all(problem.unknown for problem in found) else "InvalidSpec"

"""What is wrong with a document, in the words of its author: field paths, expectations, likely meanings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kubebee.api.v1alpha1.common import EXPECTED

MOST = 100
"""Problems reported of one document; a file of another format could have a million."""

Step: TypeAlias = str | int


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad field.

    Attributes:
        path: e.g. `spec.programs[0].attach.type`; empty for the document itself.
        message: what is wrong and what was expected.
        unknown: whether the field does not exist at all.
    """

    path: str
    message: str
    unknown: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def problems(error: ValidationError, model: type[BaseModel], document: object) -> list[Problem]:
    """Return the problems that validation of a document found, in order."""
    details = error.errors(include_url=False)[:MOST]
    return [_problem(detail, model, document) for detail in details]


def _problem(detail: ErrorDetails, model: type[BaseModel], document: object) -> Problem:
    steps = _steps(detail, document)
    path = _path(steps)
    kind = detail["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return Problem(path, _unknown_field(steps, model), unknown=True)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return Problem(f"{path}.type", _wrong_tag(detail))
    return Problem(path, _MESSAGES.get(kind, _other)(detail))


def _steps(detail: ErrorDetails, document: object) -> list[Step]:
    """Where a problem is in the document; pydantic's own steps (the tag of a union) are left out."""
    steps: list[Step] = []
    at = document
    last = len(detail["loc"]) - 1
    for index, step in enumerate(detail["loc"]):
        if isinstance(at, dict) and isinstance(step, str) and step not in at:
            if index == last and detail["type"] == "missing":
                steps.append(step)
            continue
        steps.append(step)
        if isinstance(at, dict):
            at = at.get(step)
        elif isinstance(at, list | tuple) and isinstance(step, int):
            at = at[step]
    return steps


def _path(steps: list[Step]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _unknown_field(steps: list[Step], model: type[BaseModel]) -> str:
    # Only here, because pydantic's schema generator takes 40 ms to import.
    from kubebee.api.structural import structural_schema

    name = str(steps[-1])
    known = _fields_at(structural_schema(model), steps[:-1])
    if name in known:
        return f"does not go with this type; {known[name].get('description', '')}"
    close = get_close_matches(name, known, n=1)
    return "unknown field" + (f", did you mean {close[0]}?" if close else f"; known are {', '.join(known)}")


def _fields_at(schema: dict[str, Any], steps: list[Step]) -> dict[str, dict[str, Any]]:
    for step in steps:
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(step) or schema.get("additionalProperties", {})
    fields: dict[str, dict[str, Any]] = schema.get("properties", {})
    return fields


def _wrong_tag(detail: ErrorDetails) -> str:
    expected = detail.get("ctx", {}).get("expected_tags")
    if expected is None:
        return "required: it says which kind of attachment this is"
    tags = [tag.strip("'") for tag in str(expected).split(", ")]
    tag = str(detail["ctx"]["tag"])
    close = get_close_matches(tag, tags, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    return f"{_shown(tag)} is not one of {', '.join(tags)}{guess}"


def _missing(_detail: ErrorDetails) -> str:
    return "required"


def _literal(detail: ErrorDetails) -> str:
    expected = str(detail["ctx"]["expected"]).replace("'", "")
    return f"{_shown(detail['input'])} is not one of {expected.replace(' or ', ', ')}"


def _pattern(detail: ErrorDetails) -> str:
    pattern = str(detail["ctx"]["pattern"])
    return f"{_shown(detail['input'])} is not {EXPECTED.get(pattern, f'text that matches {pattern}')}"


def _too_long(detail: ErrorDetails) -> str:
    length = len(detail["input"])
    return f"has {length} characters, at most {detail['ctx']['max_length']} are allowed"


def _own(detail: ErrorDetails) -> str:
    return detail["msg"]


def _other(detail: ErrorDetails) -> str:
    expected = _EXPECTED_TYPES.get(detail["type"])
    message = f"expected {expected}" if expected else detail["msg"].replace("Input should be", "must be")
    return f"{message}, got {_shown(detail['input'])}"


_EXPECTED_TYPES = {
    "bool_type": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "int_type": "a whole number",
    "model_type": "an object",
    "string_type": "text",
    "tuple_type": "a list",
}


_MESSAGES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": _missing,
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    "string_too_long": _too_long,
    "rule": _own,
    "double": _own,
    "value": _own,
    "regex": _own,
}


def _shown(value: object) -> str:
    """A value as the author wrote it, cut short."""
    if isinstance(value, dict | list | tuple):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

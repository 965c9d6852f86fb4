"""Free values that only the program's own types (BTF) give a meaning to."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

MAX_DEPTH = 8


def _no_fractions(value: JsonValue, depth: int = 0) -> JsonValue:
    if value is None or isinstance(value, float):
        kind = "empty" if value is None else "a fraction"
        raise PydanticCustomError(
            "value", "is {kind}; use a whole number, a boolean, a string, a list or an object", {"kind": kind}
        )
    if depth >= MAX_DEPTH:
        raise PydanticCustomError("value", "is nested more than {depth} levels deep", {"depth": MAX_DEPTH})
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _no_fractions(item, depth + 1)
    return value


FreeValue = Annotated[
    JsonValue,
    AfterValidator(_no_fractions),
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
]
"""A whole number, boolean, string, list or object. Above 2^63 - 1 write numbers as strings: the API server
stores 64-bit signed integers."""

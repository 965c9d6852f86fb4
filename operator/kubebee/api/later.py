"""Which fields of a resource this version does not act on, so that none is accepted silently."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel

from kubebee.api.v1alpha1.common import ApiModel, Later


@dataclass(frozen=True, slots=True)
class _FieldMark:
    """What there is to look for in one field: a mark on it, or models under it."""

    attribute: str
    json_name: str
    mark: Later | None


def unbuilt(resource: BaseModel) -> tuple[str, ...]:
    """Return the paths of fields in use that are not built yet, such as `spec.rollout`.

    Only what the user set counts; a default never does. An enumerated field names its value too.
    """
    spec = getattr(resource, "spec", None)
    return tuple(_search(spec, "spec")) if isinstance(spec, BaseModel) else ()


def _search(model: BaseModel, path: str) -> Iterator[str]:
    if isinstance(model, ApiModel) and not model.built:
        yield f"{path}.type: {getattr(model, 'type', '')}"
        return
    for field in _marks(type(model)):
        if field.attribute not in model.model_fields_set:
            continue
        value = getattr(model, field.attribute)
        here = f"{path}.{field.json_name}"
        if field.mark is not None:
            yield from _marked(here, value, field.mark)
        elif isinstance(value, BaseModel):
            yield from _search(value, here)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                yield from _search(item, f"{here}[{index}]")


def _marked(path: str, value: object, mark: Later) -> Iterator[str]:
    if mark.values:
        if value in mark.values:
            yield f"{path}: {value}"
    elif value not in (None, False, ()):
        yield path


@cache
def _marks(model: type[BaseModel]) -> tuple[_FieldMark, ...]:
    """Fields of a model that are marked or lead to a mark; lists of plain data cost nothing to skip."""
    model.model_rebuild()
    marks = []
    for name, info in model.model_fields.items():
        mark = next((item for item in info.metadata if isinstance(item, Later)), None)
        if mark or any(_leads_on(part) for part in _models(info.annotation)):
            marks.append(_FieldMark(name, info.alias or name, mark))
    return tuple(marks)


def _leads_on(model: type[BaseModel]) -> bool:
    return bool(_marks(model)) or (issubclass(model, ApiModel) and not model.built)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """All models that an annotation mentions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _models(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple, dict):
        for part in get_args(annotation):
            yield from _models(part)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation

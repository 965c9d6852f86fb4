"""The built-in templates for BpfProgram: templates/builtin/NAME/{template.yaml, program.bpf.c.j2}."""

from __future__ import annotations

import functools
import re
from importlib import resources

import msgspec
import yaml

from kubebee.render.errors import RenderError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ParamDefault = bool | int | str | list[int | str]


class TemplateParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parameter; `type` is int, bool, string, ident, address or list. Without a default it is required."""

    name: str
    type: str
    description: str
    default: ParamDefault | None = None


class TemplateProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function of the template and where it attaches by default, as in BpfProgram's `programs`."""

    name: str
    attach: dict[str, str | int | bool | list[str] | dict[str, str | int | bool | list[str]]]


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    summary: str
    description: str
    programs: tuple[TemplateProgram, ...]
    params: tuple[TemplateParam, ...] = ()


class BuiltinTemplate(msgspec.Struct, frozen=True):
    """A template with its description; `text` is the Jinja source."""

    name: str
    summary: str
    description: str
    params: tuple[TemplateParam, ...]
    programs: tuple[TemplateProgram, ...]
    text: str


def names() -> tuple[str, ...]:
    """The names of all built-in templates, sorted."""
    folder = resources.files("kubebee_templates").joinpath("builtin")
    return tuple(sorted(item.name for item in folder.iterdir() if item.joinpath("template.yaml").is_file()))


@functools.cache
def get(name: str) -> BuiltinTemplate:
    """A template by name. Raises RenderError when there is none (or ours is damaged)."""
    folder = resources.files("kubebee_templates").joinpath("builtin", name)
    if not _NAME.fullmatch(name) or not folder.joinpath("template.yaml").is_file():
        raise RenderError(
            f"no built-in template {name!r}",
            reason="TemplateNotFound",
            hint=f"one of: {', '.join(names())}",
        )
    raw = yaml.safe_load(folder.joinpath("template.yaml").read_text(encoding="utf-8"))
    try:
        found = msgspec.convert(raw, _Description)
    except msgspec.ValidationError as error:
        raise RenderError(str(error), where=f"templates/builtin/{name}/template.yaml") from error
    text = folder.joinpath("program.bpf.c.j2").read_text(encoding="utf-8")
    return BuiltinTemplate(name, found.summary, found.description, found.params, found.programs, text)

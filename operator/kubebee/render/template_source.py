"""A resource's template to C: on one machine, in the controller and for `kubebee verify`."""

from __future__ import annotations

from typing import cast

from kubebee.api.v1alpha1.bpfprogram import TemplateSource
from kubebee.planner.declared import Rendered
from kubebee.render import catalog
from kubebee.render.c_value import RenderValue
from kubebee.render.user import render_user
from kubebee.toolchain.diagnostics import SourceLine


def render_template(source: TemplateSource) -> Rendered:
    """C of a built-in or the user's own template.

    Raises:
        KubebeeError: it can't be rendered.
    """
    if source.name is not None:
        template = catalog.get(source.name)
        params: dict[str, RenderValue] = {p.name: p.default for p in template.params if p.default is not None}
        params |= _params(source)
        rendered = render_user(template.text, params, f"template {source.name}")
    else:
        rendered = render_user(source.inline or "", _params(source), "template")
    return Rendered(rendered.text, tuple(SourceLine(line.file, line.line) for line in rendered.lines))


def _params(source: TemplateSource) -> dict[str, RenderValue]:
    # What is no RenderValue (a float, an object) is refused by name in render_user.
    return cast("dict[str, RenderValue]", dict(source.params))

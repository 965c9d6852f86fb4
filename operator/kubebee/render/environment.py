"""The Jinja environment of kubebee's own templates, and what it shares with that of users."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from importlib import resources

import jinja2

from kubebee.render.c_value import CIdent, RenderValue, c_string, to_c
from kubebee.render.errors import RenderError
from kubebee.render.source_map import MARKS, MarkLines, Rendered, unmark

__all__ = ["CIdent", "RenderValue", "explain", "harden", "render_builtin", "render_text"]

# Filters that can take text past the guard of to_c, or that make HTML.
_UNSAFE_FILTERS = (
    "e", "escape", "forceescape", "safe", "mark_safe", "tojson", "xmlattr", "urlize", "striptags", "pprint",
    "format", "random", "wordwrap", "center", "filesizeformat", "indent", "replace",
)  # fmt: skip


def harden(environment: jinja2.Environment) -> jinja2.Environment:
    """Give an environment the guard, strictness and line marks that all templates have.

    Autoescape tells text made by macros (Markup) from strings that come from outside (str).
    """
    environment.autoescape = True
    environment.undefined = jinja2.StrictUndefined
    environment.finalize = to_c
    environment.trim_blocks = True
    environment.lstrip_blocks = True
    environment.keep_trailing_newline = True
    environment.add_extension(MarkLines)
    for name in _UNSAFE_FILTERS:
        environment.filters.pop(name, None)
    environment.globals = {name: environment.globals[name] for name in ("range", "namespace")}
    environment.filters["cstring"] = c_string
    return environment


@functools.cache
def _builtin_environment() -> jinja2.Environment:
    def load(name: str) -> str:
        try:
            return resources.files("kubebee_templates").joinpath(name).read_text(encoding="utf-8")
        except OSError as error:
            raise jinja2.TemplateNotFound(name) from error

    environment = jinja2.Environment(loader=jinja2.FunctionLoader(load))  # noqa: S701 - harden sets it
    return harden(environment)


def render_builtin(name: str, context: Mapping[str, RenderValue]) -> str:
    """Render one of kubebee's templates, e.g. "dispatcher" for templates/dispatcher.bpf.c.j2.

    Raises:
        RenderError: no such template, a missing variable, or a value with no form in C.
    """
    file = f"{name}.bpf.c.j2"
    try:
        return unmark(_builtin_environment().get_template(file).render(context), file).text
    except (jinja2.TemplateError, RenderError, TypeError, ValueError) as error:
        raise explain(error, file) from error


def render_text(
    environment: jinja2.Environment, text: str, context: Mapping[str, RenderValue], name: str
) -> Rendered:
    """Render template text with line numbers kept. Raises RenderError."""
    if any(mark in text for mark in MARKS):
        raise RenderError("the template has control characters", where=name)
    try:
        # Not from_string: it leaves the name out, which the line marks need.
        code = environment.compile(text, name=name)
        template = environment.template_class.from_code(environment, code, environment.make_globals(None))
        return unmark(template.render(context), name)
    except RecursionError as error:
        raise RenderError("macros or expressions nest too deep", where=name) from error
    except (jinja2.TemplateError, RenderError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise explain(error, name, text) from error


def explain(error: Exception, name: str, text: str = "") -> RenderError:
    """The RenderError for what Jinja raised, with the template's line and, if known, its text."""
    line = _line_of(error)
    where = f"{name}:{line}" if line else name
    lines = text.splitlines()
    excerpt = f" in {lines[line - 1].strip()[:80]!r}" if 0 < line <= len(lines) else ""
    if isinstance(error, RenderError):
        return RenderError(f"{error.message}{excerpt}", reason=error.reason, where=where, hint=error.hint)
    if isinstance(error, jinja2.TemplateNotFound):
        return RenderError(f"no template {error.name}", reason="TemplateNotFound", where=name)
    if isinstance(error, jinja2.exceptions.SecurityError):
        reason = "TemplateForbidden"
    elif isinstance(error, jinja2.UndefinedError):
        reason = "TemplateUndefined"
    elif isinstance(error, jinja2.TemplateSyntaxError):
        reason = "TemplateSyntax"
    else:
        reason = "TemplateValue"
    return RenderError(f"{error.args[0] if error.args else error}{excerpt}", reason=reason, where=where)


def _line_of(error: Exception) -> int:
    """Jinja rewrites tracebacks to show template lines; its syntax errors know theirs. 0: unknown."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f.lineno or 0 for f in frames if f.filename == "<template>" or f.filename.endswith(".j2")]
    return inside[-1] if inside else 0

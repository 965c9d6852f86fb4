"""The error of templates."""

from __future__ import annotations

from kubebee.errors import KubebeeError


class RenderError(KubebeeError):
    """A template or its parameters cannot be rendered; `where` is the template's file:line.

    Reasons: TemplateSyntax, TemplateUndefined, TemplateForbidden, TemplateValue, TemplateTimeout,
    TemplateTooLarge, TemplateNotFound, TemplateInvalid.
    """

    reason = "TemplateInvalid"

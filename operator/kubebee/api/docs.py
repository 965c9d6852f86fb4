"""Descriptions of kinds and fields, read from the source of their models.

Only generators need them. pydantic's own `use_attribute_docstrings` would parse the source of every class at
each import.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache


@cache
def _module_docs(module: str) -> dict[str, dict[str, str]]:
    """Docstrings below the fields of each class of a module."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _class_docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _class_docs(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found


def field_docs(model: type) -> dict[str, str]:
    """Return the description of every field of a model, by attribute name, as one paragraph."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__.startswith(__package__):
            docs |= _module_docs(cls.__module__).get(cls.__name__, {})
    return {name: " ".join(text.split()) for name, text in docs.items()}


def about(model: type) -> str:
    """Return the description of a model, its paragraphs apart."""
    return inspect.cleandoc(model.__doc__ or "")

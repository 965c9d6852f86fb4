"""Built-in templates, rendered, compiled and loaded."""

from __future__ import annotations

from importlib import resources

import jinja2
import yaml

from kubebee.bpf.object import BpfObject
from support.clang import compile_c

FOLDER = resources.files("kubebee_templates") / "builtin"
NAMES = sorted(entry.name for entry in FOLDER.iterdir() if entry.is_dir())


def load(name: str, **params: int) -> BpfObject:
    """Load a built-in template with its defaults and the given params."""
    described = yaml.safe_load((FOLDER / name / "template.yaml").read_text())
    values = {param["name"]: param["default"] for param in described["params"]} | params
    text = (FOLDER / name / "program.bpf.c.j2").read_text()
    source = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text).render(values)  # noqa: S701
    loaded = BpfObject.open(compile_c(source.replace("<kubebee/", "<")), name.replace("-", "_"))
    loaded.load()
    return loaded

"""Built-in templates as a BpfProgram gets them: rendered in the sandbox, compiled, loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kubebee.bpf.object import BpfObject
from kubebee.render import catalog
from kubebee.render.user import render_user
from kubebee.toolchain.compile import CompileRequest, compile_c

_CACHE = tempfile.TemporaryDirectory(prefix="kb-test-cache-")  # goes with the test run


def load(name: str, **params: int) -> BpfObject:
    """Load a built-in template with its defaults and the given params."""
    template = catalog.get(name)
    defaults = {param.name: param.default for param in template.params if param.default is not None}
    rendered = render_user(template.text, defaults | params, name)
    compiled = compile_c(CompileRequest(source=rendered.text, filename=f"{name}.c"), Path(_CACHE.name))
    assert compiled.warnings == ()
    loaded = BpfObject.open(compiled.elf, name.replace("-", "_"))
    loaded.load()
    return loaded

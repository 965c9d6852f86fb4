"""Compile small BPF programs for tests, without the product's own toolchain."""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[2] / "templates" / "include"
LICENSE = 'char LICENSE[] __attribute__((section("license"), used)) = "GPL";\n'
HEADERS = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"


@functools.cache
def compile_c(source: str) -> bytes:
    """Return the BPF object of a C source; warnings are errors."""
    clang = shutil.which("clang-19") or shutil.which("clang")
    if clang is None:
        pytest.skip("no clang")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.o"
        subprocess.run(
            [
                *(clang, "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
                *(
                    "-I",
                    str(INCLUDE),
                    f"-I/usr/include/{platform.machine()}-linux-gnu",
                    "-x",
                    "c",
                    "-",
                    "-c",
                    "-o",
                    str(out),
                ),
            ],
            input=source.encode(),
            check=True,
            timeout=60,
        )
        return out.read_bytes()

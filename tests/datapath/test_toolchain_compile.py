"""Compiling C in the sandbox: objects, errors in the user's lines, limits, cache."""

from pathlib import Path

import pytest

from kubebee.render.user import render_user
from kubebee.toolchain import isolation
from kubebee.toolchain.compile import CompileRequest, compile_c
from kubebee.toolchain.errors import CompileError
from kubebee.toolchain.sandbox import Limits

COUNTER = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int pass(struct xdp_md *ctx) { return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""
TYPED = """#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
SEC("tp_btf/sched_process_exec") int on_exec(unsigned long long *ctx)
{ return ((struct task_struct *)ctx[0])->tgid; }
char _license[] SEC("license") = "GPL";
"""
# 10^12 tokens: no machine ends it.
GREEDY = "#define A0 x\n" + "".join(f"#define A{i + 1} {f'A{i} ' * 10}\n" for i in range(12)) + "A12\n"


@pytest.fixture(autouse=True, params=list(isolation.Isolation), ids=lambda kind: kind.name.lower())
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> isolation.Isolation:
    """Everything below holds by whatever means the compiler is kept apart."""
    monkeypatch.setattr(isolation, "choose", lambda: request.param)
    return request.param  # type: ignore[no-any-return]


def refused(source: str, cache: Path, **limits: float) -> CompileError:
    with pytest.raises(CompileError) as caught:
        compile_c(CompileRequest(source, "mine.c", limits=Limits(**limits)), cache)  # type: ignore[arg-type]
    return caught.value


def test_a_second_compile_comes_from_the_cache(tmp_path: Path) -> None:
    first, second = (compile_c(CompileRequest(COUNTER), tmp_path) for _ in range(2))
    assert first.elf.startswith(b"\x7fELF")
    assert (first.cached, second.cached) == (False, True)
    assert first.elf == second.elf


def test_a_damaged_cache_entry_is_made_anew(tmp_path: Path) -> None:
    first = compile_c(CompileRequest(COUNTER), tmp_path)
    (entry,) = (tmp_path / "objects").iterdir()
    entry.write_bytes(entry.read_bytes()[:-9])
    again = compile_c(CompileRequest(COUNTER), tmp_path)
    assert not again.cached
    assert again.elf == first.elf


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file where the directory should be")
    result = compile_c(CompileRequest(COUNTER), tmp_path)
    assert any("not written" in warning for warning in result.warnings)


def test_vmlinux_h_is_there(tmp_path: Path) -> None:
    assert compile_c(CompileRequest(TYPED), tmp_path).elf.startswith(b"\x7fELF")
    assert list(tmp_path.glob("vmlinux/*/*.pch"))


def test_an_error_names_file_line_and_column(tmp_path: Path) -> None:
    error = refused("int x;\nint y = nothing;\n", tmp_path)
    assert error.where == "mine.c:2:9"
    assert "nothing" in error.message


def test_an_error_in_a_header_names_the_header(tmp_path: Path) -> None:
    request = CompileRequest("#include <inner/mine.h>\n", "mine.c", headers={"inner/mine.h": "int x = y;\n"})
    with pytest.raises(CompileError) as caught:
        compile_c(request, tmp_path)
    assert caught.value.diagnostics[0].where == "/src/inner/mine.h:1:9"


def test_the_object_has_the_source_lines_that_a_verifier_log_shows(tmp_path: Path) -> None:
    header = "static int half(int x) { return x >> 1; }\n"
    source = COUNTER.replace('SEC("xdp")', '#include "half.h"\nSEC("xdp")').replace(
        "XDP_PASS", "half(ctx->data)"
    )
    elf = compile_c(CompileRequest(source, headers={"half.h": header}), tmp_path).elf
    assert b"int pass(struct xdp_md *ctx) { return half(ctx->data); }" in elf
    assert header.strip().encode() in elf


def test_the_same_source_gives_the_same_object(tmp_path: Path) -> None:
    first, second = (compile_c(CompileRequest(COUNTER), tmp_path / name) for name in ("one", "other"))
    assert first.elf == second.elf


def test_an_error_in_a_template_names_the_template_line(tmp_path: Path) -> None:
    rendered = render_user(
        "{% for i in range(9) %}\nint x{{ i }};\n{% endfor %}\nint y = z;\n", {}, "mine.j2"
    )
    with pytest.raises(CompileError) as caught:
        compile_c(CompileRequest(rendered.text, "mine.c", line_map=rendered.lines), tmp_path)
    assert caught.value.where == "mine.j2:4"
    assert "mine.j2:4:" in caught.value.log


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/etc/passwd", "/dev/zero", "/proc/self/environ", "../../etc/passwd"]
)
def test_files_of_the_machine_cannot_be_read(tmp_path: Path, path: str) -> None:
    message = refused(f'#include "{path}"\n', tmp_path).message
    assert "file not found" in message or "Permission denied" in message


@pytest.mark.parametrize(
    ("source", "limits", "reason"),
    [
        (GREEDY, {"wall_seconds": 0.5, "memory_bytes": 8 << 30}, "CompileTimeout"),
        (GREEDY, {"cpu_seconds": 1, "memory_bytes": 8 << 30}, "CompileTimeout"),
        (GREEDY, {"memory_bytes": 400 << 20}, "CompileMemory"),
        ("char a[40 << 20] = {1};\n", {}, "CompileOutputTooLarge"),
        ("//" + "x" * (10 << 20), {}, "SourceTooLarge"),
    ],
)
def test_a_source_that_takes_too_much_is_stopped(
    tmp_path: Path, source: str, limits: dict[str, float], reason: str
) -> None:
    assert refused(source, tmp_path, **limits).reason == reason

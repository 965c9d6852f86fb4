"""Code that is wrong or hostile: refused at its own line, while its version before runs on."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable

import pytest

from support import clang
from support.hostile import DAMAGED, GREEDY, SLOW
from support.site import BODY_LINE, EDITED, EXEC, XDP, Site, counter, program, tracer

pytestmark = pytest.mark.root


def test_c_that_does_not_compile_is_named_by_its_own_line(site: Site) -> None:
    status = site.refused(program(EDITED, counter(body="\n\tno_such();")), "CompileFailed", "no_such")
    assert f"{EDITED}.c:{BODY_LINE + 1}:2: " in status.message
    failure = status.failures[0]
    assert failure["stage"] == "Compile"
    assert f"{EDITED}.c:{BODY_LINE + 1}:2: error:" in failure["log"]


def test_a_template_that_does_not_compile_is_named_by_the_template_s_line(site: Site) -> None:
    text = "{% for number in range(5) %}\nint x{{ number }};\n{% endfor %}\n" + counter(body="no_such();")
    status = site.refused(
        program(EDITED, {"template": {"inline": text}}), "CompileFailed", "no_such", "template:"
    )
    assert f"template:{BODY_LINE + 3}: " in status.message


def test_c_that_the_verifier_refuses_shows_the_verifier_s_last_lines(site: Site) -> None:
    body = "seen = (void *)(long)ctx->data;\n\t*(volatile __u64 *)seen;"
    words = ["the verifier refuses function count", "offset is outside of the packet"]
    status = site.refused(program(EDITED, counter(body=body)), "VerifierRefused", *words)
    assert f"{EDITED}.c:{BODY_LINE + 1}: " in status.message
    failure = status.failures[0]
    assert (failure["stage"], failure["errno"]) == ("Verify", "EACCES")
    assert "invalid access to packet" in failure["log"]


def test_a_tracer_that_the_verifier_refuses_is_told_so_too(site: Site) -> None:
    bad = program(EDITED, tracer(body="*(volatile __u64 *)(__u64)one;"), EXEC)
    status = site.refused(bad, "VerifierRefused", "invalid mem access 'scalar'")
    assert f"{EDITED}.c:{BODY_LINE}: " in status.message
    assert "invalid mem access" in status.failures[0]["log"]


def test_a_source_that_keeps_clang_busy_is_stopped_and_delays_nobody(site: Site) -> None:
    with site.undisturbed():
        good = site.running.status("BpfProgram", EDITED).attachments
        site.running.apply(program(EDITED, SLOW + counter()))
        start = time.monotonic()
        site.running.apply(program("meanwhile", tracer(), EXEC))
        site.running.wait_ready("BpfProgram", "meanwhile")
        assert time.monotonic() - start < 10, "it waited until clang was stopped, after 15 s"
        status = site.wait_refused("BpfProgram", EDITED, "CompileTimeout", "limit of 15 s of CPU time")
        assert "macros" in status.failures[0]["hint"]
        assert status.attachments == good
        site.running.delete("bpfprogram-meanwhile.yaml")


def test_a_source_that_eats_memory_is_stopped(site: Site) -> None:
    status = site.refused(program(EDITED, GREEDY), "CompileMemory", "its limit of 1024 MiB of memory")
    assert "macros" in status.failures[0]["hint"]


@pytest.mark.parametrize("path", ["/etc/shadow", "/dev/zero", "/proc/self/environ"])
def test_no_file_of_the_machine_can_be_included(site: Site, path: str) -> None:
    site.refused(
        program(EDITED, f'#include "{path}"\n'), "CompileFailed", f"'{path}' file not found", "edited.c:1"
    )


def test_a_template_that_loops_is_stopped(site: Site) -> None:
    loops = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    site.refused(
        program(EDITED, {"template": {"inline": loops}}), "TemplateTimeout", "within 2 s", "template"
    )


@pytest.mark.parametrize("text", ["{{ ''.__class__ }}", "{{ x|attr('__init__') }}", "{{ x.real.__doc__ }}"])
def test_a_template_reads_no_attribute_that_it_must_not(site: Site, text: str) -> None:
    source = {"template": {"inline": f"\n{text}", "params": {"x": 1}}}
    site.refused(program(EDITED, source), "TemplateForbidden", "template:2", text)


def given_object(elf: bytes, attach: dict[str, object] = XDP, name: str = "count") -> dict[str, object]:
    """The edited program as a compiled object."""
    text, digest = base64.b64encode(elf).decode(), hashlib.sha256(elf).hexdigest()
    manifest = program(EDITED, {"object": {"base64": text, "sha256": digest}}, attach)
    manifest["spec"]["programs"][0]["name"] = name
    return manifest


@pytest.mark.parametrize(("spoil", "reason", "word"), DAMAGED)
def test_a_damaged_object_is_refused(
    site: Site, spoil: Callable[[bytes], bytes], reason: str, word: str
) -> None:
    elf = spoil(clang.compile_c(counter()))
    status = site.refused(given_object(elf), reason, word, "edited.o")
    assert status.failures[0]["hint"]


def test_an_object_of_another_digest_is_refused(site: Site) -> None:
    manifest = given_object(clang.compile_c(counter()))
    manifest["spec"]["source"]["object"]["sha256"] = "0" * 64  # type: ignore[index]
    site.refused(manifest, "DigestMismatch", "the object's sha256 is", "0" * 64)


def test_a_function_that_is_not_in_the_object(site: Site) -> None:
    manifest = program(EDITED, counter())
    manifest["spec"]["programs"][0]["name"] = "counter"
    status = site.refused(manifest, "FunctionNotFound", "'counter'", f"{EDITED}.c")
    assert status.failures[0]["hint"] == "it has count"


@pytest.mark.parametrize(
    "attach", [{"type": "TC", "interfaces": {"primary": True}, "direction": "Ingress"}, EXEC]
)
def test_an_attach_type_that_does_not_fit_the_section(site: Site, attach: dict[str, object]) -> None:
    words = ["section 'xdp'", str(attach["type"]), "change SEC(...) or the attach type"]
    site.refused(program(EDITED, counter(), attach), "AttachTypeMismatch", *words)


@pytest.mark.parametrize(
    ("attach", "section", "missing"),
    [
        ({"type": "Kprobe", "symbol": "do_sys_openat2"}, "kprobe", "kprobe"),
        ({"type": "Fentry", "function": "tcp_v4_connect"}, "fentry/tcp_v4_connect", "fentry"),
        ({"type": "Lsm", "hook": "bpf"}, "lsm/bpf", "LSM"),
    ],
)
def test_what_this_kernel_lacks_is_named(
    site: Site, attach: dict[str, object], section: str, missing: str
) -> None:
    site.refused(program(EDITED, tracer(section=section), attach), "Unsupported", missing)


def test_an_edit_that_can_t_be_attached_leaves_the_one_before_where_it_was(site: Site) -> None:
    nowhere = {"type": "Tracepoint", "category": "sched", "name": "no_such"}
    bad = program(EDITED, tracer(section="tp"), nowhere)
    site.refused(bad, "NoSuchTracepoint", "sched/no_such")


def test_a_new_resource_that_fails_leaves_nothing_behind(site: Site) -> None:
    with site.undisturbed():
        site.running.apply(program("stillborn", counter(body="*(volatile __u64 *)0;")))
        status = site.wait_refused("BpfProgram", "stillborn", "VerifierRefused")
        assert not status.attachments
        pins = site.running.run("find", "/sys/fs/bpf/kubebee", "-path", "*stillborn*").stdout
        assert not pins
        site.running.delete("bpfprogram-stillborn.yaml")

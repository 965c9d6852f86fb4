"""The command line as far as it goes without touching the kernel: help, errors, exit statuses, documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kubebee.cli import failures, main, output
from kubebee.cli.exit_codes import Exit
from kubebee.errors import KubebeeError
from kubebee.toolchain.errors import CompileError

ROOT = Path(__file__).parents[2]
VERBS = ("run", "status", "render", "verify", "crds", "prog", "map", "lb", "template", "completion")


def kubebee(*argv: object) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "kubebee.cli.main", *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_verb_and_every_exit_status() -> None:
    text = CliRunner().invoke(main.cli, ["--help"]).output
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert all(f"\n    {int(code)}  " in text for code in Exit)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_on_lines_of_their_own(verb: str) -> None:
    text = CliRunner().invoke(main.cli, [verb, "--help"]).output
    examples = text.partition("Examples:\n")[2].splitlines()
    assert examples
    assert examples[0].strip().startswith(("kubebee ", "until kubebee"))


def test_help_loads_no_verb() -> None:
    code = "import sys, kubebee.cli.main as m\ntry: m.cli(['--help'])\nfinally: print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"pydantic", "jinja2", "yaml", "kubebee.loader"} & set(loaded.split())


def test_an_error_says_what_where_why_and_what_to_do() -> None:
    error = KubebeeError("it broke", reason="Broken", where="a.yaml#2", hint="mend it")
    assert failures.describe(error).splitlines() == [
        "error: it broke",
        "  where: a.yaml#2",
        "  why:   Broken",
        "  do:    mend it",
    ]


def test_a_compilers_error_shows_its_log() -> None:
    text = failures.describe(CompileError("no C", log="x.c:1:1: error: no C\n"))
    assert text.endswith("\n  | x.c:1:1: error: no C")


def test_an_error_goes_to_stderr_with_status_1_and_no_traceback() -> None:
    done = kubebee("template", "show", "nonsense")
    assert (done.returncode, done.stdout) == (Exit.ERROR, "")
    assert done.stderr.startswith("error: no built-in template 'nonsense'")
    assert "Traceback" not in done.stderr


def test_verbose_shows_the_traceback_too() -> None:
    assert "Traceback" in kubebee("-v", "template", "show", "nonsense").stderr


def test_a_fault_of_ours_asks_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(ZeroDivisionError("oh"), verbose=False) is Exit.ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: ZeroDivisionError: oh: a fault of kubebee, please report it")
    assert said.count("\n") == 1


def test_wrong_usage_is_status_2() -> None:
    assert kubebee("run", "--no-such-option").returncode == Exit.USAGE


def test_run_where_nothing_is_mounted_is_status_4_and_says_what_to_mount(tmp_path: Path) -> None:
    done = kubebee("run", "-f", tmp_path, "--bpffs", tmp_path)
    assert done.returncode == Exit.ENVIRONMENT
    assert f"mount -t bpf bpf {tmp_path}" in done.stderr


def test_crds_are_written_and_then_up_to_date(tmp_path: Path) -> None:
    places = ("--output-dir", tmp_path / "crds", "--reference", tmp_path / "reference.md")
    assert kubebee("crds", *places).returncode == Exit.OK
    assert kubebee("crds", "--check", *places).returncode == Exit.OK
    (tmp_path / "reference.md").write_text("old")
    done = kubebee("crds", "--check", *places)
    assert done.returncode == Exit.NOT_READY
    assert "kubebee crds" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_ask_kubebee(shell: str) -> None:
    done = kubebee("completion", shell)
    assert done.returncode == Exit.OK
    assert "_KUBEBEE_COMPLETE" in done.stdout


def test_a_shown_template_gives_a_manifest_that_is_valid() -> None:
    from kubebee.api.parse import parse_resource

    text = kubebee("template", "show", "syn-guard").stdout
    assert parse_resource(yaml.safe_load(text.partition("Manifest:\n")[2])).metadata.name == "syn-guard"


def test_rendered_templates_have_no_template_left() -> None:
    done = kubebee("render", "examples/xdp-syn-guard.yaml")
    assert done.returncode == Exit.OK
    assert 'SEC("xdp")' in done.stdout
    assert "{%" not in done.stdout


def write_status(folder: Path, name: str, ready: str, generation: int = 1, observed: int = 1) -> None:
    """A status as `kubebee run` writes it."""
    condition = {"type": "Ready", "status": ready, "reason": "Because", "message": "text"}
    status = {"observedGeneration": observed, "conditions": [condition], "nodes": {"summary": "1/1"}}
    metadata = {"name": name, "generation": generation}
    path = folder / ".kubebee" / "status" / "BpfProgram" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"kind": "BpfProgram", "metadata": metadata, "status": status}))


def test_status_of_what_is_ready_is_0(tmp_path: Path) -> None:
    write_status(tmp_path, "fine", "True")
    done = kubebee("status", "-f", tmp_path)
    assert done.returncode == Exit.OK
    assert "1 of 1 ready" in done.stdout
    assert "BpfProgram/fine  Because  -" in done.stdout


@pytest.mark.parametrize(("ready", "generation"), [("False", 1), ("True", 2)])
def test_status_is_3_unless_the_newest_generation_is_ready(
    tmp_path: Path, ready: str, generation: int
) -> None:
    write_status(tmp_path, "fine", "True")
    write_status(tmp_path, "late", ready, generation)
    done = kubebee("status", "-f", tmp_path, "-o", "json")
    assert done.returncode == Exit.NOT_READY
    listed = json.loads(done.stdout)["resources"]
    assert {each["metadata"]["name"]: each["ready"] for each in listed} == {"fine": True, "late": False}


def test_status_of_a_folder_that_nobody_runs_says_so(tmp_path: Path) -> None:
    done = kubebee("status", "-f", tmp_path)
    assert done.returncode == Exit.ERROR
    assert f"kubebee run -f {tmp_path}" in done.stderr


def test_tables_align_their_columns() -> None:
    assert output.table(("A", "LONG"), [("xyz", 1), ("y", 22)]) == "A     LONG\nxyz   1\ny     22"


def test_completion_knows_the_templates() -> None:
    words = {"COMP_WORDS": "kubebee template show syn", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "from kubebee.cli.main import cli; cli(prog_name='kubebee')"],
        env={**os.environ, **words, "_KUBEBEE_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "plain,syn-guard"

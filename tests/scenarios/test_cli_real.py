"""Verbs of the command line that ask the kernel, and the metrics of a running kubebee."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import NODE, Lab
from support.running import KUBEBEE, Running, wait_for
from support.site import EXEC, balancer, counter, policy, program, tracer

pytestmark = pytest.mark.root
PORT = "9750"


def verify(folder: Path, *files: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and results of `kubebee verify --json`."""
    argv = [KUBEBEE, "verify", "--json", "--cache", str(folder / "cache"), *(str(folder / f) for f in files)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def write(folder: Path, *manifests: dict[str, Any]) -> str:
    """One file of some manifests."""
    (folder / "all.yaml").write_text(yaml.safe_dump_all(manifests))
    return "all.yaml"


def pinned_programs() -> set[int]:
    """Programs with the name that tests here give theirs."""
    listed = json.loads(subprocess.run([KUBEBEE, "prog", "list", "-o", "json"], capture_output=True).stdout)
    return {each["id"] for each in listed if each["name"] == "kept_nowhere"}


def test_verify_takes_resources_of_all_kinds_to_the_verifier(tmp_path: Path) -> None:
    good = (program("packets", counter()), program("execs", tracer(), EXEC), balancer("shop"))
    code, results = verify(tmp_path, write(tmp_path, *good, policy("edge", "Deny")))
    assert [(r["name"], r["ok"], r["stage"]) for r in results] == [
        ("packets", True, "Running"),
        ("execs", True, "Running"),
        ("shop", True, "Running"),
        ("edge", True, "Running"),
    ]
    assert code == 0


def test_verify_leaves_nothing_loaded(tmp_path: Path) -> None:
    source = tracer().replace("int count(", "int kept_nowhere(")
    manifest = program("execs", source, EXEC)
    manifest["spec"]["programs"][0]["name"] = "kept_nowhere"
    assert verify(tmp_path, write(tmp_path, manifest))[0] == 0
    assert pinned_programs() == set()


def test_verify_tells_each_failure_and_its_stage(tmp_path: Path) -> None:
    endless = counter(body="for (int i = 0; i >= 0; key++) { if (bpf_ktime_get_ns() == 7) break; }")
    bad = (
        program("no-c", counter(body="this is no C")),
        program("endless", endless),
        program("unknown-field", counter(), colour="blue"),
        program("fine", counter()),
    )
    code, results = verify(tmp_path, write(tmp_path, *bad))
    found = {r["name"]: (r["stage"], r["reason"]) for r in results}
    assert code == 3
    assert found["no-c"] == ("Compile", "CompileFailed")
    assert found["endless"] == ("Verify", "VerifierRefused")
    assert found["unknown-field"][0] == "Plan"
    assert found["fine"] == ("Running", "")
    assert "no-c.c:" in next(r["log"] for r in results if r["name"] == "no-c")


def test_verify_finds_two_resources_of_one_name(tmp_path: Path) -> None:
    code, results = verify(tmp_path, write(tmp_path, program("a", counter()), program("a", counter())))
    assert code == 3
    assert {r["reason"] for r in results} == {"DuplicateResource", ""}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A kubebee with one resource of each kind and some traffic."""
    options = ["--metrics-port", PORT, "--enable-stats"]
    with (
        Lab() as lab,
        Running(lab.node_command, tmp_path_factory.mktemp("cli"), options, cold=True) as started,
    ):
        manifests = (
            program("packets", counter()),
            program("execs", tracer(), EXEC),
            balancer("shop"),
            policy("edge", "Deny"),
        )
        for manifest in manifests:
            started.apply(manifest)
        for manifest in manifests:
            started.wait_ready(manifest["kind"], manifest["metadata"]["name"])
        lab.client.run("ping", "-c", "3", "-i", "0.01", "-W", "1", NODE)
        yield started


def metrics(running: Running) -> dict[str, float]:
    """Samples by name with labels."""
    text = running.run("curl", "-sf", f"http://127.0.0.1:{PORT}/metrics").stdout
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_count_runs_by_function(running: Running) -> None:
    seen = metrics(running)
    packets = 'function="count",kind="BpfProgram",name="packets"'
    execs = 'function="count",kind="BpfProgram",name="execs"'
    assert seen[f'kubebee_program_runs_total{{{packets},type="XDP"}}'] >= 3
    assert seen[f'kubebee_program_run_seconds_total{{{packets},type="XDP"}}'] > 0
    assert seen[f'kubebee_xdp_verdicts_total{{{packets},verdict="NEXT"}}'] >= 3
    assert seen[f'kubebee_program_runs_total{{{execs},type="RawTracepoint"}}'] > 0


def test_metrics_tell_the_state_of_all_kinds(running: Running) -> None:
    seen = metrics(running)
    assert seen['kubebee_programs{kind="BpfProgram",stage="Running"}'] == 2
    assert seen["kubebee_servicelb_frontends"] == 1
    labels = 'action="Deny",hostpolicy="edge",mode="enforce",rule="rule"'
    assert seen[f"kubebee_hostpolicy_packets_total{{{labels}}}"] == 0
    assert seen['kubebee_map_entries{kind="BpfProgram",map="counts",name="packets"}'] == 1
    assert seen["kubebee_compile_seconds_count"] >= 1
    assert seen["kubebee_missed_readings_total"] == 0


def test_metrics_count_an_error_once(running: Running) -> None:
    running.apply(program("broken", counter(body="this is no C")))
    running.wait_reason("BpfProgram", "broken", "CompileFailed")
    assert metrics(running)['kubebee_errors_total{reason="CompileFailed",stage="Compile"}'] == 1
    running.delete("bpfprogram-broken.yaml")


def test_every_metric_is_in_the_docs(running: Running) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    text = running.run("curl", "-sf", f"http://127.0.0.1:{PORT}/metrics").stdout
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert {name for name in names if f"`{name}`" not in documented} == set()


def test_hangup_makes_a_pass(running: Running) -> None:
    passes = metrics(running)["kubebee_reconcile_seconds_count"]
    assert running.process is not None
    running.process.send_signal(signal.SIGHUP)
    wait_for("a pass", lambda: metrics(running)["kubebee_reconcile_seconds_count"] > passes)


def test_a_map_is_dumped_by_its_c_types(running: Running) -> None:
    dumped = json.loads(running.run(KUBEBEE, "map", "dump", "packets/counts", "-o", "json").stdout)
    assert [(m["name"], m["type"], m["maxEntries"]) for m in dumped] == [("counts", "hash", 8)]
    (entry,) = dumped[0]["entries"]
    assert entry["key"] == 7
    assert entry["value"] >= 3


def test_a_map_that_is_not_there_is_an_error_that_names_those_that_are(running: Running) -> None:
    done = running.run(KUBEBEE, "map", "dump", "packets/nonsense", check=False)
    assert done.returncode == 1
    assert "counts" in done.stderr


def test_programs_are_listed_with_owner_and_place(running: Running) -> None:
    listed = json.loads(running.run(KUBEBEE, "prog", "list", "-o", "json").stdout)
    places = {
        (point["hook"], point["target"])
        for each in listed
        if each["owner"] == "kubebee"
        for point in each["attachPoints"]
    }
    assert {("xdp", "eth0"), ("raw_tracepoint", "sched_process_exec")} <= places


def test_status_shows_where_a_resource_is_attached(running: Running) -> None:
    done = running.run(KUBEBEE, "status", "-f", str(running.manifests), "packets")
    assert "XDP eth0 (Native)" in done.stdout


def test_remove_on_exit_leaves_no_pin_and_no_link(lab: Lab, tmp_path: Path) -> None:
    with Running(lab.node_command, tmp_path, ["--remove-on-exit"]) as started:
        started.apply(program("packets", counter()))
        link = started.wait_ready("BpfProgram", "packets").attachments[0]["linkId"]
        assert started.stop() == 0
        assert "kubebee" not in started.run("ls", "/sys/fs/bpf").stdout
        assert link not in {each["id"] for each in started.bpftool("link", "show")}

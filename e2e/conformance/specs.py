"""Running specs of the suite against a cluster, several at a time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster import Cluster, ClusterError
from cluster.control_plane import tail
from conformance import report
from conformance.report import Spec
from conformance.suite import CACHE, Suite

_GO_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_GRACE_S = 30.0
PROCESSES = 4
"""Specs that run at one time: most of them wait most of the time."""


def exactly(name: str) -> str:
    """The pattern that only the spec of a name matches; patterns see the suite's title before it."""
    return " " + _GO_SPECIAL.sub(lambda found: "\\" + found[0], name) + " *$"


def run_specs(
    suite: Suite,
    cluster: Cluster,
    names: Sequence[str],
    folder: Path = CACHE / "run",
    *,
    within: float,
    processes: int = PROCESSES,
    keep_failed: bool = False,
) -> list[Spec]:
    """Run the specs of these names, those that must be alone last.

    Args:
        suite: the tests.
        cluster: a cluster that is up.
        names: full names.
        folder: is made anew, and has the log and the report afterwards.
        within: seconds for all. Specs that have not ended by then are told to, and count as interrupted.
        processes: how many run at a time.
        keep_failed: leave the namespaces of failed specs for a look at them.

    Raises:
        ClusterError: the suite itself failed, before or beside its specs; or it knows no such spec.
    """
    for archive in suite.archives:
        cluster.load_image(archive)
    flags = [f"--timeout={within:.0f}s", f"--procs={processes}"]
    of_tests = [f"--delete-namespace-on-failure={str(not keep_failed).lower()}"]
    patterns = [exactly(name) for name in names]
    specs = _run(suite, cluster, patterns, folder, flags, of_tests, within=within + _GRACE_S)
    found = {spec.name for spec in specs}
    missing = [name for name in names if name not in found]
    parts = [spec for spec in specs if spec.name not in names]
    if parts or missing:
        said = [spec.account for spec in parts] or [f"no such spec: {name}" for name in missing]
        raise ClusterError("\n".join([*said, tail(folder / "log")]))
    return specs


def give_zones(cluster: Cluster) -> None:
    """Give each node a zone of its own, which specs about topology need."""
    for node in cluster.nodes:
        zone = f"topology.kubernetes.io/zone=zone-{node.spec.number}"
        cluster.kubectl("label", "node", node.name, zone, "--overwrite")


def list_specs(suite: Suite, cluster: Cluster, focus: str, skip: str = "") -> list[str]:
    """Full names of the specs whose names match a pattern of Go's, in alphabetical order."""
    flags = ["--dry-run", *([f"--skip={skip}"] if skip else [])]
    return sorted(spec.name for spec in _run(suite, cluster, [focus], CACHE / "list", flags, within=120))


def _run(
    suite: Suite,
    cluster: Cluster,
    focus: Sequence[str],
    folder: Path,
    flags: Sequence[str],
    of_tests: Sequence[str] = (),
    *,
    within: float,
) -> list[Spec]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    program = folder / suite.program.name
    program.symlink_to(suite.program)  # it runs, and writes, in the folder that it is in
    command = [
        str(suite.runner),
        "--json-report=report.json",
        "--no-color",
        "--silence-skips",
        "--seed=1",  # the order is drawn by it; the same one each time
        *flags,
        *(f"--focus={pattern}" for pattern in focus),
        str(program),
        "--",
        f"--kubeconfig={cluster.spec.kubeconfig}",
        f"--kubectl-path={cluster.programs / 'kubectl'}",
        f"--e2e-output-dir={folder}",
        "--provider=skeleton",
        f"--num-nodes={len(cluster.nodes)}",
        *of_tests,
    ]
    environment = {**os.environ, "KUBE_TEST_REPO_LIST": str(suite.repositories)}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            process.wait(within)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"not done after {within:.0f} s\n{tail(log)}") from error
        finally:
            _end(process)
    if not (folder / "report.json").exists():
        raise ClusterError(f"the tests ended with {process.returncode} and no report\n{tail(log)}")
    return report.read(folder / "report.json")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt it and its processes: Ginkgo cleans up and reports then. Kill them if that takes too long."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, stop)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                continue

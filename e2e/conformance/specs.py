"""Running specs of the suite against a cluster, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster import Cluster, ClusterError
from cluster.control_plane import tail
from conformance import report
from conformance.report import Spec
from conformance.suite import CACHE, Suite

_GO_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_GRACE_S = 30.0


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
    keep_failed: bool = False,
) -> list[Spec]:
    """Run the specs of these names, one at a time.

    Args:
        suite: the tests.
        cluster: a cluster that is up.
        names: full names.
        folder: is made anew, and has the log and the report afterwards.
        within: seconds for all. Specs that have not ended by then are told to, and count as interrupted.
        keep_failed: leave the namespaces of failed specs for a look at them.

    Raises:
        ClusterError: the suite itself failed, before or beside its specs; or it knows no such spec.
    """
    for archive in suite.archives:
        cluster.load_image(archive)
    flags = [
        f"--ginkgo.timeout={within:.0f}s",
        f"--delete-namespace-on-failure={str(not keep_failed).lower()}",
    ]
    specs = _run(suite, cluster, [exactly(name) for name in names], folder, flags, within + _GRACE_S)
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
    flags = ["--ginkgo.dry-run", *([f"--ginkgo.skip={skip}"] if skip else [])]
    return sorted(spec.name for spec in _run(suite, cluster, [focus], CACHE / "list", flags, within=120))


def _run(
    suite: Suite, cluster: Cluster, focus: Sequence[str], folder: Path, flags: Sequence[str], within: float
) -> list[Spec]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [
        str(suite.program),
        f"--kubeconfig={cluster.spec.kubeconfig}",
        f"--kubectl-path={cluster.programs / 'kubectl'}",
        f"--e2e-output-dir={folder}",
        "--provider=skeleton",
        f"--ginkgo.json-report={folder / 'report.json'}",
        "--ginkgo.no-color",
        "--ginkgo.seed=1",  # the order is drawn by it; the same one each time
        *flags,
        *(f"--ginkgo.focus={pattern}" for pattern in focus),
    ]
    environment = {**os.environ, "KUBE_TEST_REPO_LIST": str(suite.repositories)}
    log = folder / "log"
    with log.open("wb") as output:
        # In a folder of its own, as it writes below the current one.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder
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
    """Interrupt it, as Ginkgo cleans up and reports then; kill it if that takes too long."""
    stops: tuple[Callable[[], None], ...] = (process.terminate, process.kill)
    for stop in stops:
        if process.poll() is None:
            stop()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                continue

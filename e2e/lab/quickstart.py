"""``make run``: kubebee in the lab on examples/quickstart, with real traffic, and a verdict.

On a terminal it shows the live view until Ctrl-C; otherwise it runs until each thing was seen, and prints
the last state. Exit code 0: all is attached, both backends answered, by the Service too, denied traffic
was denied.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab.netns import private_mounts
from lab.requests import Requests
from lab.topology import NODE, NODE_PORT, Lab
from lab.traffic import http_get

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "examples" / "quickstart"
KUBEBEE = Path(sys.executable).with_name("kubebee")
READY_WITHIN_S = 60.0
SEEN_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0
_POLL_S = 0.1


@dataclass(frozen=True)
class State:
    """What a resource's status file says."""

    kind: str
    name: str
    ready: bool
    why: str


def wanted(folder: Path) -> set[tuple[str, str]]:
    """Kind and name of kubebee's resources in a folder of manifests; a Service has no status there."""
    documents = (each for path in folder.glob("*.yaml") for each in yaml.safe_load_all(path.read_text()))
    return {
        (document["kind"], document["metadata"]["name"])
        for document in documents
        if document["kind"] not in ("Service", "EndpointSlice")
    }


def read_states(folder: Path) -> list[State]:
    """The status of every wanted resource of a directory store; one without is not ready."""
    states = []
    for kind, name in sorted(wanted(folder)):
        path = folder / ".kubebee" / "status" / kind / f"{name}.yaml"
        document = (yaml.safe_load(path.read_text()) if path.exists() else None) or {}
        conditions = document.get("status", {}).get("conditions", [])
        ready: dict[str, str] = next((each for each in conditions if each["type"] == "Ready"), {})
        why = ": ".join(filter(None, (ready.get("reason"), ready.get("message")))) or "no status yet"
        states.append(State(kind, name, ready.get("status") == "True", why))
    return states


def kubebee(lab: Lab, *args: str) -> list[str]:
    """The kubebee command as it runs on the lab's node."""
    return lab.node_command([str(KUBEBEE), *args])


@contextlib.contextmanager
def running_kubebee(lab: Lab, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``kubebee run`` on the node for the time of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            kubebee(lab, "run", "-f", str(folder), "--enable-stats"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the live view
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(folder: Path, process: subprocess.Popen[bytes]) -> list[State]:
    """The states once all are ready, or when that is not to be expected any more."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        states = read_states(folder)
        over = process.poll() is not None or time.monotonic() > deadline
        if over or all(state.ready for state in states):
            return states
        time.sleep(_POLL_S)


def show_live(argv: list[str]) -> None:
    """Run the live view until Ctrl-C, which reaches it as well: it gives the terminal back and ends."""
    view = subprocess.Popen(argv)
    try:
        view.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            view.wait(STOP_WITHIN_S)
    finally:
        view.terminate()
        view.wait()


def wait_until_seen(requests: Requests, process: subprocess.Popen[bytes]) -> None:
    """Return when each backend answered and policy stopped something, or after a while."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        services = (count for counts in requests.by_service.values() for count in counts.values())
        if all(requests.answered.values()) and all(services) and requests.denied + requests.let_in >= 2:
            return
        time.sleep(_POLL_S)


def faults(states: list[State], requests: Requests, process: subprocess.Popen[bytes]) -> list[str]:
    """What is not as it should be, a line each."""
    found = [f"{state.kind} {state.name} is not ready: {state.why}" for state in states if not state.ready]
    if process.poll() is not None:
        found.append(f"kubebee ended by itself with exit code {process.returncode}")
    found += [f"{name} answered no request" for name, count in requests.answered.items() if not count]
    for how, counts in requests.by_service.items():
        found += [f"{name} answered no {how} to the Service" for name, count in counts.items() if not count]
    if requests.let_in or not requests.denied:
        found.append(f"policy let {requests.let_in} denied connections in and stopped {requests.denied}")
    return found


def main() -> int:
    """Run the quickstart; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    private_mounts()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kb-quickstart-")))
        folder, log = scratch / "manifests", scratch / "kubebee.log"
        shutil.copytree(MANIFESTS, folder, ignore=shutil.ignore_patterns(".kubebee"))
        print("lab: client, node, two backends", flush=True)
        lab = stack.enter_context(Lab())
        # What policy will deny does work without it: that it is denied later says something.
        assert http_get(lab.client, NODE, NODE_PORT) == "node"
        print(f"kubebee run -f {MANIFESTS.relative_to(ROOT)}, on the node", flush=True)
        process = stack.enter_context(running_kubebee(lab, folder, log))
        wait_until_ready(folder, process)
        requests = stack.enter_context(Requests(lab))
        if sys.stdout.isatty() and process.poll() is None:
            show_live(kubebee(lab, "status", "-f", str(folder), "--watch"))
        wait_until_seen(requests, process)
        subprocess.run(kubebee(lab, "status", "-f", str(folder), "--rates"), check=False)
        answered = ", ".join(f"{name} {count}" for name, count in requests.answered.items())
        for how, counts in requests.by_service.items():
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            print(f"{how} requests to the Service answered: {told}")
        print(f"requests answered: {answered}, by nobody: {requests.failed}; denied: {requests.denied}")
        found = faults(read_states(folder), requests, process)
        for fault in found:
            print(f"FAULT: {fault}", file=sys.stderr)
        if found:
            print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before the live view: everything was removed on the way here
        sys.exit(128 + signal.SIGINT)

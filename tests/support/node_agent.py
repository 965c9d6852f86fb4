"""A real `kubebee agent` in a lab's node, and the API server that it asks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from lab import Lab
from support.api_server import ApiServer, bound
from support.running import KUBEBEE, Running, wait_for

NODE_NAME = "node1"
PORT = 9750


class NodeAgent(Running):
    """A node agent; stop, kill and bpftool are those of `Running`.

    Args:
        under: a command that runs the agent, such as setpriv.
    """

    def __init__(
        self,
        lab: Lab,
        api: ApiServer,
        folder: Path,
        options: Sequence[str] = (),
        under: Sequence[str] = (),
    ) -> None:
        super().__init__(lab.node_command, folder, options)
        self.api = api
        self._under = list(under)
        self.kubeconfig = folder / "kubeconfig"

    def start(self) -> Self:
        """Start the agent; returns at once."""
        self.kubeconfig.write_text(self.api.kubeconfig())
        argv = [
            *self._under,
            KUBEBEE,
            "agent",
            "--node",
            NODE_NAME,
            "--cache",
            str(self.cache),
            "--log",
            "text",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command([*argv, "--kubeconfig", str(self.kubeconfig), *self._options]),
                stdout=log,
                stderr=log,
            )
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP endpoint of the agent; (0, "") while nobody listens."""
        url = f"http://127.0.0.1:{PORT}{path}"
        done = self.run("curl", "-s", "-m", "5", "-w", "\n%{http_code}", url, check=False)
        body, _, code = done.stdout.rpartition("\n")
        return int(code), body

    def metric(self, name: str) -> float:
        """A metric without labels, or with the labels as written."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        assert found, name
        return float(found[1])

    def wait_ready_by_probe(self) -> None:
        """Wait until it is ready as a kubelet sees it."""
        wait_for("readiness", lambda: self.get("/readyz")[0] == 200)

    def node_status(self) -> dict[str, Any]:
        """Status of the BpfNode as the API server has it."""
        return self.api.status(NODE_NAME)

    def resource_status(self, name: str) -> dict[str, Any]:
        """What the node says of one resource; empty if nothing."""
        listed = self.node_status().get("resources", [])
        return next((one for one in listed if one["name"] == name), {})

    def wait_running(self, name: str, generation: int = 1) -> dict[str, Any]:
        """Wait until the node says that a resource runs in a generation."""

        def look() -> dict[str, Any]:
            assert self.process is None or self.process.poll() is None, self.log.read_text()[-4000:]
            found = self.resource_status(name)
            right = found.get("stage") == "Running" and found.get("generation") == generation
            return found if right else {}

        return wait_for(f"{name} runs in generation {generation}", look)

    def wait_observed(self, generation: int) -> dict[str, Any]:
        """Wait until the status speaks of a generation of the BpfNode."""

        def look() -> dict[str, Any]:
            status = self.node_status()
            return status if status.get("observedGeneration") == generation else {}

        return wait_for(f"generation {generation} observed", look)


@contextmanager
def served(lab: Lab) -> Iterator[ApiServer]:
    """An API server on the loopback of a lab's node."""
    with ApiServer(bound(lab.node.network.socket)) as api:
        yield api

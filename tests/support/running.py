"""A real `kubebee run` on a directory of manifests, in a lab's node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from support import compiled

KUBEBEE = str(Path(sys.executable).with_name("kubebee"))
PATIENCE = float(os.environ.get("KUBEBEE_TEST_PATIENCE", "1"))
"""Times that everything may take longer here: under qemu a compiler needs seconds, not milliseconds."""
DEADLINE_S = 60.0
_T = TypeVar("_T")


class NotReachedError(AssertionError):
    """What a test waited for did not come."""


def wait_for(what: str, look: Callable[[], _T], deadline: float = DEADLINE_S) -> _T:
    """Look until `look` returns something true; what it raised last is part of the error."""
    end = time.monotonic() + deadline * PATIENCE
    last: object = None
    while time.monotonic() < end:
        try:
            found = look()
        except (AssertionError, OSError, LookupError, subprocess.SubprocessError) as error:
            last = repr(error)
        else:
            if found:
                return found
            last = found
        time.sleep(0.02)
    raise NotReachedError(f"{what}: not within {deadline} s; last seen: {last}")


@dataclass(frozen=True)
class Status:
    """A resource's status as the directory store has it."""

    document: dict[str, Any]

    @property
    def status(self) -> dict[str, Any]:
        """The status itself."""
        return dict(self.document.get("status", {}))

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition by type; empty if absent."""
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    @property
    def ready(self) -> bool:
        """Whether Ready is True."""
        return self.condition("Ready").get("status") == "True"

    @property
    def stalled(self) -> bool:
        """Whether Stalled is True."""
        return self.condition("Stalled").get("status") == "True"

    @property
    def reason(self) -> str:
        """Reason of Ready."""
        return str(self.condition("Ready").get("reason", ""))

    @property
    def message(self) -> str:
        """Message of Ready."""
        return str(self.condition("Ready").get("message", ""))

    @property
    def generation(self) -> int:
        """The generation it speaks of."""
        return int(self.status.get("observedGeneration", 0))

    @property
    def attachments(self) -> list[dict[str, Any]]:
        """Places where it runs."""
        return list(self.status.get("attachments", []))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Failing nodes."""
        return list(self.status.get("failures", []))


class Running:
    """Manifests in a folder and a kubebee that watches it.

    Args:
        command: turns an argv into one that runs on the node.
        folder: an empty directory: manifests, cache and log are in it.
        options: of `kubebee run`.
        cold: everything is to be compiled, whatever other tests have compiled.
    """

    def __init__(
        self,
        command: Callable[[Sequence[str]], list[str]],
        folder: Path,
        options: Sequence[str] = (),
        *,
        cold: bool = False,
    ) -> None:
        self._command = command
        self.manifests = folder / "manifests"
        self.manifests.mkdir(parents=True, exist_ok=True)
        self.cache = folder / "cache"
        if not cold:
            compiled.seed(self.cache)
        self.log = folder / "log"
        self._options = list(options)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start kubebee; returns at once."""
        argv = [KUBEBEE, "run", "-f", str(self.manifests), "--cache", str(self.cache), "--node", "node1"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command([*argv, "--log", "text", *self._options]), stdout=log, stderr=log
            )
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End kubebee by a signal and wait for it; what it loaded goes on running."""
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(20)
        self.process = None
        compiled.harvest(self.cache)
        return code

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the node."""
        limit = 60 * PATIENCE
        done = subprocess.run(self._command(argv), capture_output=True, text=True, timeout=limit, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def bpftool(self, *argv: str) -> Any:
        """Run bpftool on the node and return its JSON."""
        return json.loads(self.run("bpftool", "-j", *argv).stdout or "null")

    def apply(self, manifest: dict[str, Any] | str, file: str = "") -> None:
        """Write a manifest as editors do: a new file renamed over the old one."""
        text = manifest if isinstance(manifest, str) else yaml.safe_dump(manifest, sort_keys=False)
        parsed = yaml.safe_load(text) if not file else {}
        name = file or f"{parsed['kind'].lower()}-{parsed['metadata']['name']}.yaml"
        temporary = self.manifests / f".{name}.new"
        temporary.write_text(text)
        temporary.replace(self.manifests / name)

    def delete(self, file: str) -> None:
        """Remove a manifest file."""
        (self.manifests / file).unlink()

    def status(self, kind: str, name: str) -> Status:
        """The status as it is now; empty before there is one."""
        path = self.manifests / ".kubebee" / "status" / kind / f"{name}.yaml"
        with contextlib.suppress(FileNotFoundError):
            return Status(yaml.safe_load(path.read_text()))
        return Status({})

    def wait(self, kind: str, name: str, until: Callable[[Status], object], what: str = "") -> Status:
        """Wait until a resource's status is as wanted."""

        def look() -> Status | None:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"kubebee ended: {self.log.read_text()[-4000:]}")
            status = self.status(kind, name)
            return status if until(status) else None

        try:
            found = wait_for(what or f"status of {kind}/{name}", look)
        except NotReachedError as error:
            state = yaml.safe_dump(self.status(kind, name).document)
            raise NotReachedError(f"{error}\n{state}\n{self.log.read_text()[-4000:]}") from None
        assert found is not None
        return found

    def wait_ready(self, kind: str, name: str, generation: int = 1) -> Status:
        """Wait until a resource is Ready at a generation or a later one."""

        def settled(status: Status) -> bool:
            return status.generation >= generation and (status.ready or status.stalled)

        status = self.wait(kind, name, settled, f"{kind}/{name} Ready")
        assert status.ready, yaml.safe_dump(status.document)
        return status

    def wait_reason(self, kind: str, name: str, reason: str) -> Status:
        """Wait until a resource's Ready condition has a reason."""
        return self.wait(kind, name, lambda s: s.reason == reason, f"{kind}/{name} {reason}")

    def events(self) -> list[dict[str, Any]]:
        """All events."""
        path = self.manifests / ".kubebee" / "events.json"
        return list(json.loads(path.read_text())) if path.exists() else []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.kill()

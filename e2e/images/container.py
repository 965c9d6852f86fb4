"""Containers of an image by runc alone, with what a pod of the chart may do: no engine, no cluster."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.build import CACHE, Image, Storage

LOADER_CAPABILITIES = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")
_TMPFS = ["nosuid", "nodev", "mode=1777"]


@dataclass(frozen=True)
class Container:
    """How containers of one image are started.

    Attributes:
        root: the image's file system; read-only for containers.
        uid: user and group.
        capabilities: of its processes, by name.
        mounts: path inside -> host directory, writable.
    """

    root: Path
    uid: int = 65532
    capabilities: Sequence[str] = ()
    mounts: Mapping[str, Path] | None = None

    def run(self, *argv: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in a new container, without network, to its end."""
        with tempfile.TemporaryDirectory(prefix="kubebee-container-") as bundle:
            Path(bundle, "config.json").write_text(json.dumps(self._configuration(argv)))
            name = f"kubebee-{os.getpid()}-{Path(bundle).name[-8:]}"
            command = ("runc", "--root", f"{bundle}/state", "run", "--bundle", bundle, name)
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
            )

    def _configuration(self, argv: Sequence[str]) -> dict[str, Any]:
        capabilities = list(self.capabilities)
        mounts: list[dict[str, object]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": _TMPFS},  # noqa: S108
        ]
        mounts += [
            {"destination": inside, "type": "bind", "source": str(host), "options": ["rbind", "rw"]}
            for inside, host in (self.mounts or {}).items()
        ]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.root), "readonly": True},
            "process": {
                "user": {"uid": self.uid, "gid": self.uid},
                "args": list(argv),
                "env": ["PATH=/opt/kubebee/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                "noNewPrivileges": True,
            },
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
        }


@contextmanager
def file_system(image: Image) -> Iterator[Path]:
    """The files of a built image, until the end of the block."""
    storage = Storage(CACHE / "storage")
    name = storage.buildah("from", f"localhost/{image.name}").strip()
    try:
        yield Path(storage.buildah("mount", name).strip())
    finally:
        storage.buildah("umount", name)
        storage.buildah("rm", name)

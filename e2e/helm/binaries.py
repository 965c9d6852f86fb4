"""Helm, built from Go modules of pinned versions and kept by the hash of what pins them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from helm.errors import HelmError

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".build" / "helm"
MAJORS = (3, 4)
_MODULES = Path(__file__).parent / "go"
_GO_ELSEWHERE = "/usr/local/go/bin"
_BUILD_WITHIN_S = 3000.0


def version(major: int) -> str:
    """The version that the module pins, such as v4.3.1."""
    text = (_module(major) / "go.mod").read_text()
    found = re.search(rf"helm\.sh/helm/v{major} (v\S+)", text)
    if found is None:
        raise HelmError(f"{_module(major)}/go.mod does not require helm.sh/helm/v{major}")
    return found[1]


def build(major: int) -> Path:
    """The program, built unless it is there: two minutes.

    Raises:
        HelmError: there is no Go, or it fails.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    pinned = b"".join((_module(major) / name).read_bytes() for name in ("go.mod", "go.sum"))
    done = CACHE / f"helm{major}-{hashlib.sha256(pinned).hexdigest()[:16]}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            print(f"helm: build {version(major)} (minutes)", flush=True)
            _build(major, done)
    return done


def run(program: Path, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Helm, apart from settings and caches that the user may have.

    Raises:
        HelmError: it failed and `check` is true; has what it said.
    """
    home = CACHE / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    environment = {
        **kept,
        "HELM_CACHE_HOME": f"{home}/cache",
        "HELM_CONFIG_HOME": f"{home}/config",
        "HELM_DATA_HOME": f"{home}/data",
    }
    words = [str(word) for word in (program, *argv)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=environment)
    if check and done.returncode != 0:
        raise HelmError(f"{' '.join(words[1:])}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def _module(major: int) -> Path:
    return _MODULES / f"v{major}"


def _linker_flags(major: int) -> str:
    """What to stamp: Helm 4 reads it from its modules, 3 else says it is for Kubernetes 1.20."""
    stamps = {"internal/version.version": version(major)}
    if major == 3:
        text = (_module(major) / "go.mod").read_text()
        found = re.search(r"k8s\.io/client-go v0\.(\d+)\.", text)
        if found is None:
            raise HelmError(f"{_module(major)}/go.mod does not require k8s.io/client-go")
        for package in ("pkg/chartutil", "pkg/lint/rules"):
            stamps |= {f"{package}.k8sVersionMajor": "1", f"{package}.k8sVersionMinor": found[1]}
    module = f"helm.sh/helm/v{major}"
    return " ".join(["-s", "-w", *(f"-X {module}/{name}={value}" for name, value in stamps.items())])


def _build(major: int, to: Path) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:{_GO_ELSEWHERE}", "CGO_ENABLED": "0"}
    if shutil.which("go", path=environment["PATH"]) is None:
        raise HelmError("there is no go command, which Helm is built with: install Go and put it on PATH")
    unfinished = to.with_name(f"{to.name}.{os.getpid()}")
    package = f"helm.sh/helm/v{major}"
    flags: Sequence[str] = ("-mod=readonly", "-trimpath", "-ldflags", _linker_flags(major))
    command = ["nice", "go", "build", *flags, "-o", str(unfinished), f"{package}/cmd/helm"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_WITHIN_S,
            cwd=_module(major),
            env=environment,
        )
        if done.returncode != 0:
            raise HelmError(f"{' '.join(command)}: {done.stderr.strip()[-4000:]}")
        unfinished.rename(to)
    finally:
        unfinished.unlink(missing_ok=True)

"""Kubernetes and CoreDNS, built from Go modules of pinned versions, kept by the hash of what pins them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.commands import run
from cluster.errors import ClusterError

_MODULES = Path(__file__).parent / "go"
_GO_ELSEWHERE = "/usr/local/go/bin"
_OLDEST_GO = (1, 24)
_BUILD_WITHIN_S = 3000.0
_KEPT = 2
"""Versions kept in the cache: this one, and the one that another branch may go back to."""


@dataclass(frozen=True)
class GoModule:
    """A folder with go.mod, go.sum and, perhaps, Go files; what is built in it.

    Attributes:
        path: the folder.
        packages: what to build.
        source: the module whose version the binaries say they are.
        tests: packages whose tests are compiled to programs, named as their last part with ``.test``.
    """

    path: Path
    packages: Sequence[str]
    source: str
    tests: Sequence[str] = ()

    @property
    def version(self) -> str:
        """Version of the source module, e.g. ``v1.34.4``."""
        found = re.search(rf"\b{re.escape(self.source)} (v\S+)", (self.path / "go.mod").read_text())
        if found is None:
            raise ClusterError(f"{self.path}/go.mod does not require {self.source}")
        return found[1]


_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
KUBERNETES = GoModule(
    _MODULES / "kubernetes",
    (*(f"k8s.io/kubernetes/cmd/{name}" for name in _COMMANDS), "k8s.io/kubernetes/test/images/agnhost"),
    "k8s.io/kubernetes",
)
COREDNS = GoModule(_MODULES / "coredns", (".",), "github.com/coredns/coredns")
MODULES = (KUBERNETES, COREDNS)


def linker_flags(module: GoModule) -> str:
    """What to stamp: without its version an API server says v0.0.0 and refuses its own defaults."""
    major, minor, _ = module.version.removeprefix("v").split(".", 2)
    stamps = {"gitVersion": module.version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{k}={v}" for k, v in stamps.items())])


def digest(modules: Sequence[GoModule] = MODULES) -> str:
    """Hash of all that decides what is built."""
    files = sorted(path for module in modules for path in module.path.iterdir())
    content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    content += "".join(linker_flags(module) for module in modules).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def folder(cache: Path) -> Path:
    """Where the binaries are, once they are built."""
    return cache / f"binaries-{digest()}"


def build(cache: Path) -> Path:
    """Build what is not there yet, quietly below other work (nice); returns the folder.

    Raises:
        ClusterError: there is no Go, or it fails.
    """
    done = folder(cache)
    if done.is_dir():
        return done
    unfinished = done.with_name(f"{done.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        for module in MODULES:
            print(
                f"cluster: build {module.source} {module.version} and what goes with it (minutes)", flush=True
            )
            compile_module(module, unfinished)
        if not done.is_dir():
            unfinished.rename(done)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _forget_old(cache)
    return done


def compile_module(module: GoModule, to: Path) -> None:
    """Build what a module names into a folder; Go's own cache makes that short where it was built before.

    Raises:
        ClusterError: there is no Go, or it fails.
    """
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:{_GO_ELSEWHERE}", "CGO_ENABLED": "0"}
    check_go(environment)
    flags = ("-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", linker_flags(module))
    commands = [["nice", "go", "build", *flags, "-o", f"{to}/", *module.packages]]
    for package in module.tests:
        program = to / f"{package.rpartition('/')[2]}.test"
        commands.append(["nice", "go", "test", "-c", *flags, "-o", str(program), package])
    for command in commands:
        run(command, cwd=module.path, env=environment, timeout=_BUILD_WITHIN_S)


def check_go(environment: Mapping[str, str]) -> None:
    """See that a new enough Go is on the path of an environment.

    Raises:
        ClusterError: there is none.
    """
    hint = "install Go from Debian's backports or its authors, and put it on PATH"
    if shutil.which("go", path=environment["PATH"]) is None:
        raise ClusterError("there is no go command, which Kubernetes is built with", hint=hint)
    said = run(["go", "version"], env=environment).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_GO:
        raise ClusterError(f"{said.strip()}: older than {'.'.join(map(str, _OLDEST_GO))}", hint=hint)


def _forget_old(cache: Path) -> None:
    kept = sorted(cache.glob("binaries-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[_KEPT:]:
        shutil.rmtree(path)

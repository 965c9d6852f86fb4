"""The test program and the images that its specs start pods of, kept by the hash of what pins them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import binaries, images
from cluster.commands import run
from cluster.errors import ClusterError
from cluster.images import Image
from cluster.prepare import locked
from cluster.spec import HOME, ROOT

MODULE = binaries.GoModule(
    Path(__file__).parent / "go",
    ("k8s.io/kubernetes/test/images/regression-issue-74839", "github.com/onsi/ginkgo/v2/ginkgo"),
    "k8s.io/kubernetes",
    tests=("k8s.io/kubernetes/test/e2e",),
)
CACHE = ROOT / ".build" / "conformance"
REPOSITORY = "docker.io/library"
"""Where specs look for all their images; agnhost is there on every node of the e2e cluster."""
IMAGES = (
    Image(f"{REPOSITORY}/regression-issue-74839:1.2", "regression-issue-74839"),
    # Specs run sh, sleep and nc of the first, conntrack of the second, dig of the third: the Debian has all.
    Image(
        f"{REPOSITORY}/busybox:1.37.0-1",
        "agnhost",
        tools=True,
        also=(f"{REPOSITORY}/distroless-iptables:v0.7.14", f"{REPOSITORY}/jessie-dnsutils:1.7"),
    ),
    # The specs of EndpointSlice start nginx for its pods' addresses, and ask it nothing.
    Image(f"{REPOSITORY}/nginx:1.14-4", "agnhost", ("pause",), also=(f"{REPOSITORY}/pause:3.10.1",)),
)
_REGISTRIES = ("promoterE2eRegistry", "buildImageRegistry", "gcRegistry")
_KEPT = 2
_VERSION = 1
"""Part of the cache's key: raise it when what is written below changes."""


@dataclass(frozen=True)
class Suite:
    """What was built.

    Attributes:
        folder: where all of it is.
    """

    folder: Path

    @property
    def program(self) -> Path:
        """The tests."""
        return self.folder / "e2e.test"

    @property
    def runner(self) -> Path:
        """Ginkgo, which runs them in several processes."""
        return self.folder / "ginkgo"

    @property
    def archives(self) -> Sequence[Path]:
        """The images that nodes need besides the cluster's own."""
        return [self.folder / image.file for image in IMAGES]

    @property
    def repositories(self) -> Path:
        """The file that tells the tests where images are."""
        return self.folder / "repositories.yaml"


def digest() -> str:
    """Hash of all that decides what is built."""
    told = [_VERSION, binaries.digest([MODULE]), images.folder(HOME).name, [repr(image) for image in IMAGES]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def build(programs: Path) -> Suite:
    """Build what is not there yet: minutes the first time.

    Args:
        programs: folder of the cluster's binaries, one of which most images have.

    Raises:
        ClusterError: there is no Go, or it fails; or the tests ask for images of other names.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    done = CACHE / f"suite-{digest()}"
    with locked(CACHE / "lock"):
        if not done.is_dir():
            unfinished = done.with_name(f"{done.name}.{os.getpid()}")
            unfinished.mkdir()
            try:
                print(
                    f"conformance: build the tests of Kubernetes {MODULE.version} (minutes)",
                    file=sys.stderr,
                    flush=True,
                )
                binaries.compile_module(MODULE, unfinished)
                _make_images(Suite(unfinished), programs)
                unfinished.rename(done)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            _forget_old()
    return Suite(done)


def _make_images(suite: Suite, programs: Path) -> None:
    suite.repositories.write_text("".join(f"{name}: {REPOSITORY}\n" for name in _REGISTRIES))
    environment = {**os.environ, "KUBE_TEST_REPO_LIST": str(suite.repositories)}
    wanted = run([suite.program, "--list-images"], env=environment).stdout.split()
    for name in (name for image in IMAGES for name in (image.name, *image.also)):
        if name not in wanted:
            raise ClusterError(
                f"the tests ask for no image {name}", hint="set its tag in conformance/suite.py"
            )
    rootfs = images.debian(HOME)
    for image in IMAGES:
        folder = programs if (programs / image.program).exists() else suite.folder
        below = rootfs if image.tools else None
        images.write_archive(image, folder / image.program, below, suite.folder / image.file)


def _forget_old() -> None:
    kept = sorted(CACHE.glob("suite-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[_KEPT:]:
        shutil.rmtree(path)

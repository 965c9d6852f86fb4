"""The build: buildah in a chroot, with storage of its own below .build, to archives that any engine loads."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images import debian, inputs
from images.errors import ImageError, run

CACHE = inputs.ROOT / ".build" / "images"
TARGETS = ("controller", "loader")
EPOCH = 1767225600
"""2026-01-01: the date of every file and layer, unless SOURCE_DATE_EPOCH says another."""
_BASE = "localhost/kubebee-base"
_MINUTES_30 = 1800.0


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        name: with its tag, as pods name it.
        archive: a docker archive, for `docker load`, `podman load` and `ctr images import`.
        inputs: hash of what it was made of.
        size: bytes of all layers, not compressed.
    """

    name: str
    archive: Path
    inputs: str
    size: int


@dataclass(frozen=True)
class Storage:
    """Where buildah keeps layers; apart from what else uses buildah on the machine."""

    root: Path

    def buildah(self, *argv: str | Path, timeout: float = 300) -> str:
        """Run buildah; raises ImageError."""
        own = ["--root", self.root, "--runroot", f"{self.root}-run", "--storage-driver", _driver()]
        return run(["nice", "buildah", *own, *argv], timeout=timeout)


def build(*, cache: Path = CACHE, fresh: bool = False) -> list[Image]:
    """Both images, built unless they are there and their inputs unchanged.

    Args:
        cache: where archives, layers and the base are kept.
        fresh: build every layer anew, to see whether it comes out the same.

    Raises:
        ImageError: not root, a tool can't be installed, or a step of the Dockerfile failed.
    """
    debian.require_root()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        kept = [image for target in TARGETS if (image := _kept(cache, target))]
        if not fresh and [image.inputs for image in kept] == [inputs.digest()] * len(TARGETS):
            return kept
        debian.install_tools()
        storage = Storage(cache / "storage")
        base = _base(storage, cache)
        with tempfile.TemporaryDirectory(prefix="kubebee-images-") as folder:
            tree, private = Path(folder, "tree"), Path(folder, "secrets")
            tree.mkdir()
            private.mkdir(mode=0o700)
            digest, secrets = inputs.snapshot(tree), debian.secrets(private)
            built = [_build(storage, base, target, digest, tree, secrets, fresh) for target in TARGETS]
        _prune(storage)
        return built


def epoch() -> int:
    """The date that files and layers get, seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))


def _build(
    storage: Storage, base: str, target: str, digest: str, tree: Path, secrets: list[str], fresh: bool
) -> Image:
    cache = storage.root.parent
    name = f"kubebee-{target}:{inputs.version()}"
    print(f"images: {name}", flush=True)
    options = ["--isolation=chroot", "--layers", "--timestamp", str(epoch()), "--build-arg", f"BASE={base}"]
    if fresh:
        options.append("--no-cache")
    local = f"localhost/{name}"
    command = ["bud", "-q", *options, *secrets, "--target", target, "-t", local, tree]
    storage.buildah(*command, timeout=_MINUTES_30)
    archive = cache / f"kubebee-{target}.tar"
    unfinished = archive.with_name(f"{archive.stem}.{os.getpid()}.tar")
    try:
        storage.buildah("push", "-q", local, f"docker-archive:{unfinished}:{name}")
        unfinished.rename(archive)
    finally:
        unfinished.unlink(missing_ok=True)
    size = int(json.loads(storage.buildah("images", "--json", local))[0].get("sizeBytes", 0))
    image = Image(name, archive, digest, size or archive.stat().st_size)
    note = {"name": image.name, "inputs": digest, "size": image.size}
    _note(cache, target).write_text(json.dumps(note) + "\n")
    return image


def _prune(storage: Storage) -> None:
    """Drop images that have lost their names, and layers that nothing else is made of."""
    try:
        storage.buildah("rmi", "--prune")
    except ImageError as error:  # a container still uses one: it goes the next time
        print(f"images: not pruned: {error}", flush=True)


def _kept(cache: Path, target: str) -> Image | None:
    archive = cache / f"kubebee-{target}.tar"
    try:
        note = json.loads(_note(cache, target).read_text())
        return Image(note["name"], archive, note["inputs"], note["size"]) if archive.exists() else None
    except (OSError, ValueError, KeyError):
        return None


def _note(cache: Path, target: str) -> Path:
    return cache / f"kubebee-{target}.json"


def _base(storage: Storage, cache: Path) -> str:
    """Name of the base image; made once, as a stable suite hardly changes."""
    tag = f"{_BASE}:{debian.SUITE}"
    rootfs = cache / f"debian-{debian.SUITE}.tar"
    if not rootfs.exists():
        debian.make_base(rootfs, epoch())
    elif storage.buildah("images", "-q", "--filter", f"reference={tag}"):
        return tag
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        Path(folder, "rootfs.tar").hardlink_to(rootfs)
        Path(folder, "Dockerfile").write_text("FROM scratch\nADD rootfs.tar /\n")
        storage.buildah("bud", "-q", "--timestamp", str(epoch()), "-t", tag, folder)
    return tag


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One build at a time; a second one waits, and finds the first one's images."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _driver() -> str:
    """Overlay mounts share layers between images; without them, vfs copies every layer."""
    try:
        with Path("/proc/filesystems").open() as file:
            return "overlay" if any(line.split()[-1] == "overlay" for line in file) else "vfs"
    except OSError as error:
        raise ImageError(f"/proc/filesystems: {error.strerror}") from error

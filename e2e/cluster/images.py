"""The images that the cluster itself needs, made without a registry, as archives that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cluster import binaries
from cluster.commands import run
from cluster.node_files import PAUSE_IMAGE
from kernels.packages import archive_uri

AGNHOST_IMAGE = "docker.io/library/agnhost:2.56"
"""The name that Kubernetes' conformance tests call it by."""
COREDNS_IMAGE = "kubebee.dev/e2e/coredns:1"
_TOOLS = (
    "conntrack",
    "curl",
    "dnsutils",
    "iperf3",
    "iproute2",
    "netcat-openbsd",
    "procps",
    "socat",
    "tcpdump",
    "usr-is-merged",  # instead of usrmerge, which brings 55 MB of Perl
    "wget",
)
_WITHOUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
_ROOTFS_WITHIN_S = 900.0
_VERSION = 2
"""Part of the cache's key: raise it when what is written below changes."""


@dataclass(frozen=True)
class Image:
    """What an image is made of.

    Attributes:
        name: with its tag.
        program: binary at its root, and its entry point.
        arguments: that the program has in any case.
        default: arguments of pods that give none.
        tools: whether a Debian with tools for tests of networks is below.
        also: other names of it.
    """

    name: str
    program: str
    arguments: Sequence[str] = ()
    default: Sequence[str] = ()
    tools: bool = False
    also: Sequence[str] = ()

    @property
    def file(self) -> str:
        """Name of its archive."""
        return self.name.replace("/", "_").replace(":", "_") + ".tar"


IMAGES = (
    Image(PAUSE_IMAGE, "agnhost", ("pause",)),
    Image(AGNHOST_IMAGE, "agnhost", default=("pause",), tools=True),
    Image(COREDNS_IMAGE, "coredns"),
)


def folder(cache: Path) -> Path:
    """Where the archives are, once they are made."""
    told = json.dumps([_VERSION, binaries.digest(), _TOOLS, [repr(image) for image in IMAGES]])
    return cache / f"images-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def archive(cache: Path, image: Image) -> Path:
    """Where the archive of an image is, once it is made."""
    return folder(cache) / image.file


def make(cache: Path, programs: Path) -> None:
    """Make the archives that are not there yet, of built binaries."""
    done = folder(cache)
    if done.is_dir():
        return
    unfinished = done.with_name(f"{done.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        rootfs = debian(cache)
        for image in IMAGES:
            write_archive(
                image, programs / image.program, rootfs if image.tools else None, unfinished / image.file
            )
        for old in cache.glob("images-*"):
            if old != unfinished:
                shutil.rmtree(old, ignore_errors=True)
        unfinished.rename(done)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def debian(cache: Path) -> Path:
    """A small Debian with the tools, as a tar file; of the sources that this machine's apt has."""
    suite = run(["sh", "-c", '. /etc/os-release && printf %s "$VERSION_CODENAME"']).stdout
    told = hashlib.sha256(f"{suite} {_TOOLS}".encode()).hexdigest()[:16]
    done = cache / f"tools-{told}.tar"
    if not done.exists():
        print(f"cluster: a Debian {suite} with tools, for the image of test pods (a minute)", flush=True)
        unfinished = done.with_name(f"{done.stem}.{os.getpid()}.tar")
        options = [
            f"--hook-dir={_MERGED_USR}",
            "--mode=root",
            "--variant=essential",
            f"--include={','.join(_TOOLS)}",
        ]
        options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _WITHOUT]
        try:
            command = ["nice", "mmdebstrap", *options, suite, str(unfinished), archive_uri(suite)]
            run(command, timeout=_ROOTFS_WITHIN_S)
            for old in cache.glob("tools-*.tar"):
                if old != unfinished:
                    old.unlink()
            unfinished.rename(done)
        finally:
            unfinished.unlink(missing_ok=True)
    return done


def write_archive(image: Image, program: Path, rootfs: Path | None, to: Path) -> Path:
    """Write a docker archive: the program's layer, a file tree's, and what says so. Returns where it is.

    The program is the lower layer, so that nodes unpack it once for all its images.
    """
    lower = _layer(program)
    contents: list[tuple[str, int, BinaryIO]] = [
        (hashlib.sha256(lower).hexdigest(), len(lower), io.BytesIO(lower))
    ]
    if rootfs is not None:
        contents.append((_sha256(rootfs), rootfs.stat().st_size, rootfs.open("rb")))
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {
            "Entrypoint": [f"/{image.program}", *image.arguments],
            "Cmd": [*image.default],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest, _, _ in contents]},
    }
    described = json.dumps(config).encode()
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    listed = [
        {
            "Config": name,
            "RepoTags": [image.name, *image.also],
            "Layers": [f"{each}.tar" for each, _, _ in contents],
        }
    ]
    with tarfile.open(to, "w") as tar:
        for digest, size, content in contents:
            with content:
                tar.addfile(_entry(f"{digest}.tar", size), content)
        for file, data in ((name, described), ("manifest.json", json.dumps(listed).encode())):
            tar.addfile(_entry(file, len(data)), io.BytesIO(data))
    return to


def _layer(program: Path) -> bytes:
    content = program.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        layer.addfile(_entry(program.name, len(content), 0o755), io.BytesIO(content))
        for directory, mode in (("tmp", 0o1777), ("uploads", 0o777)):  # agnhost's netexec writes there
            entry = _entry(directory, 0, mode)
            entry.type = tarfile.DIRTYPE
            layer.addfile(entry)
    return buffer.getvalue()


def _entry(name: str, size: int, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

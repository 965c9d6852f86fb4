"""What this machine knows of Debian and of Python packages, handed to the build and to nothing else.

A base image made here by mmdebstrap stands in for debian:trixie-slim. The addresses of mirrors, and how to
reach them, are those of the machine's own apt and pip; they reach the build as secrets and no layer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from images.errors import ImageError, run
from kernels.packages import archive_uri

SUITE = "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_TOOLS = ("buildah", "mmdebstrap", "runc")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# As images/install: what no process reads.
_WITHOUT = ("doc/*", "info/*", "lintian/*", "locale/*", "man/*")
_APT_OPTIONS = ("Acquire::Check-", "Acquire::http", "Acquire::https", "Acquire::Retries")
_MINUTES_20 = 1200.0


def install_tools() -> None:
    """Install what builds and starts images; nothing if it is there.

    Raises:
        ImageError: apt refuses.
    """
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if not missing:
        return
    print(f"images: Debian packages to install: {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    run(["apt-get", "update", "-qq"], timeout=300, env=environment)
    run(["apt-get", "install", *options, *missing], timeout=900, env=environment)


def make_base(to: Path, epoch: int) -> None:
    """Write the root file system of a minimal Debian as a tar file; a minute.

    Args:
        to: the tar file.
        epoch: date of every file, seconds since 1970.

    Raises:
        ImageError: mmdebstrap failed.
    """
    print(f"images: a minimal Debian {SUITE}, as base (a minute)", flush=True)
    unfinished = to.with_name(f"{to.stem}.{os.getpid()}.tar")
    options = ["--variant=minbase", f"--keyring={_KEYRING}"]
    options += [f"--dpkgopt=path-exclude=/usr/share/{pattern}" for pattern in _WITHOUT]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    # The build brings its own sources; resolv.conf and hostname are this machine's.
    forget = 'cd "$1/etc" && rm -rf apt/sources.list apt/sources.list.d/* resolv.conf hostname'
    command = ["nice", "mmdebstrap", *options, f"--customize-hook={forget}", SUITE, unfinished]
    try:
        run(
            [*command, f"deb {archive_uri(SUITE)} {SUITE} main"],
            timeout=_MINUTES_20,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        )
        unfinished.rename(to)
    finally:
        unfinished.unlink(missing_ok=True)


def secrets(folder: Path) -> list[str]:
    """Options of the build: files that it may read while it runs.

    Args:
        folder: where the files are written; the caller's to remove.
    """
    files = {"apt-sources": _apt_sources(), "apt-conf": _apt_configuration(), "pip": _pip_configuration()}
    options: list[str] = []
    for name, text in files.items():
        file = folder / name
        file.write_text(text)
        options += ["--secret", f"id={name},src={file}"]
    if _CERTIFICATES.exists():
        options += ["--secret", f"id=ca,src={_CERTIFICATES}"]
    return options


def _apt_sources() -> str:
    archives = {
        f"{SUITE} {SUITE}-updates": archive_uri(SUITE),
        f"{SUITE}-security": archive_uri(f"{SUITE}-security"),
    }
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {_KEYRING}\n"
        for suites, uri in archives.items()
    )


def _apt_configuration() -> str:
    lines = run(["apt-config", "dump"], timeout=30).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(_APT_OPTIONS))


def _pip_configuration() -> str:
    """The index of pip as it is set here, by file or environment; certificates travel on their own."""
    wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    listed = subprocess.run(
        ["/usr/bin/python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:  # no pip here: its own defaults serve
        return "[global]\n"
    values: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in wanted:
            values[name] = value.strip("'\"")
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def require_root() -> None:
    """Raises ImageError unless root: file systems are made with their owners."""
    if os.geteuid() != 0:
        raise ImageError("not root: images are built with files of several owners; run it with sudo")

"""Debian's kernel packages, fetched and unpacked without touching the machine's own apt."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_META = "linux-image-amd64"
_PACKAGE = re.compile(r"Depends: (linux-image-\d\S*)")


class KernelTestError(Exception):
    """What keeps a kernel from being tested: a package, a download, the virtual machine."""


@dataclass(frozen=True)
class KernelImage:
    """An unpacked kernel package.

    Attributes:
        release: as uname -r says it.
        root: has boot/vmlinuz-RELEASE and lib/modules/RELEASE.
    """

    release: str
    root: Path

    @property
    def vmlinuz(self) -> Path:
        """The kernel."""
        return self.root / "boot" / f"vmlinuz-{self.release}"


# The security suites follow a release's kernel more closely than the release does.
SUITES = {
    "5.10": "bullseye-security",
    "6.1": "bookworm-security",
    "6.12": "bookworm-backports",
}
"""Where each kernel comes from, by its major and minor version."""


def run(argv: Sequence[str], cwd: Path | None = None) -> str:
    """Output of a command.

    Raises:
        KernelTestError: it failed; has what it said.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        raise KernelTestError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def archive_uri(suite: str) -> str:
    """Where this machine takes such a suite from, by its own apt sources: none is written down here."""
    security = suite.endswith("-security")
    for line in run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]).splitlines():
        release, _, uri = line.partition(" ")
        if release.partition("-")[0] in ("bookworm", "trixie") and release.endswith("-security") == security:
            return uri
    raise KernelTestError(f"apt knows no source like {suite}: add Debian's to /etc/apt/sources.list")


def fetch(version: str, cache: Path) -> KernelImage:
    """Download and unpack a kernel, once: what is in `cache` already is used as it is.

    Raises:
        KernelTestError: no such kernel, or apt refuses.
    """
    home = cache / version
    unpacked = home / "root"
    with _locked(cache / f"{version}.lock"):
        if not unpacked.is_dir():
            shutil.rmtree(home, ignore_errors=True)
            _unpack(_download(SUITES[version], home), home / "new")
            (home / "new").rename(unpacked)
    (modules,) = (unpacked / "lib" / "modules").iterdir()
    return KernelImage(modules.name, unpacked)


@contextlib.contextmanager
def folder_of_run(home: Path) -> Iterator[Path]:
    """An empty folder below `home` for one run; it goes with the block, and those of killed runs with it."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=home) as name:
        folder = Path(name)
        with _locked(folder / "lock"):
            for other in home.glob("run-*"):
                with contextlib.suppress(OSError), (other / "lock").open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails for those that run, this one too
                    shutil.rmtree(other)
            yield folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(suite: str, home: Path) -> Path:
    """The package that the suite's newest kernel is in, by an apt of its own below `home`."""
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (home / folder).mkdir(parents=True)
    source = home / "etc" / "source.list"
    source.write_text(f"deb [signed-by={_KEYRING}] {archive_uri(suite)} {suite} main\n")
    options = [
        f"Dir::Etc::sourcelist={source}",
        "Dir::Etc::sourceparts=/dev/null",
        "Dir::Etc::preferencesparts=/dev/null",
        f"Dir::State::lists={home}/lists",
        f"Dir::Cache={home}/cache",
        "Dir::State::status=/dev/null",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
        "Acquire::Check-Valid-Until=false",  # suites of old releases are not signed anew
    ]
    own = [word for option in options for word in ("-o", option)]
    run(["apt-get", "-qq", *own, "update"])
    found = _PACKAGE.search(run(["apt-cache", *own, "depends", _META]))
    if found is None:
        raise KernelTestError(f"{suite} has no {_META}")
    run(["apt-get", "-qq", *own, "download", found[1]], cwd=home)
    (package,) = home.glob("*.deb")
    return package


def _unpack(package: Path, to: Path) -> None:
    """Unpack a kernel package and index its modules, which its installation would do."""
    run(["dpkg-deb", "--extract", str(package), str(to)])
    package.unlink()
    if (to / "usr" / "lib" / "modules").is_dir() and not (to / "lib").exists():
        (to / "lib").symlink_to("usr/lib")
    (modules,) = (to / "lib" / "modules").iterdir()
    run(["depmod", "--basedir", str(to), modules.name])

"""The Debian packages that the cluster needs beyond tools/setup; none of their services is started."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster.commands import run
from cluster.errors import ClusterError

PACKAGES = (
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "hostname",
    "iptables",
    "mmdebstrap",
    "nftables",
    "openssl",
    "runc",
)
_SERVICES = ("etcd", "containerd", "nftables")
_POLICY = Path("/usr/sbin/policy-rc.d")
_REFUSE = "#!/bin/sh\n# kubebee's e2e cluster installs programs, not services\nexit 101\n"


def missing() -> list[str]:
    """Packages that are not installed."""
    said = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]).stdout.splitlines()
    return [name for name in PACKAGES if f"{name} installed" not in said]


def install() -> None:
    """Install what is missing.

    Raises:
        ClusterError: not root, no apt, or apt refuses.
    """
    if os.geteuid() != 0:
        raise ClusterError("not root: namespaces, mounts and cgroups need it", hint="run it with sudo")
    if shutil.which("apt-get") is None:
        raise ClusterError("no apt-get", hint=f"use Debian 12 or 13; it is for {', '.join(PACKAGES)}")
    wanted = missing()
    if not wanted:
        return
    print(f"cluster: Debian packages to install: {' '.join(wanted)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    with _no_services():
        run(["apt-get", "update", "-qq"], env=environment, timeout=300)
        run(["apt-get", "install", *options, *wanted], env=environment, timeout=900)
    if shutil.which("systemctl"):  # nor at the next boot
        mine = [name for name in _SERVICES if any(name in package for package in wanted)]
        run(["systemctl", "disable", *mine], check=False)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Forbid packages to start services meanwhile, by Debian's own means for that; then as it was before."""
    before = _POLICY.with_name("policy-rc.d.before-kubebee")
    if _POLICY.exists():
        _POLICY.rename(before)
    try:
        _POLICY.write_text(_REFUSE)
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
        if before.exists():
            before.rename(_POLICY)

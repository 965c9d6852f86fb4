"""etcd, API server, controller manager, scheduler: plain processes, on the bridge's address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.cgroups import Group
from cluster.commands import run, wait_until
from cluster.errors import ClusterError
from cluster.spec import API_PORT, SERVICE_CIDR, ClusterSpec

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
_START_WITHIN_S = 60.0
_LOG_TAIL_LINES = 15


def group_name(spec: ClusterSpec) -> str:
    """The cgroup that the control plane runs in."""
    return f"{spec.name}-control"


def arguments(spec: ClusterSpec, component: str) -> list[str]:
    """The command line of a component, without its program."""
    values = {
        ETCD: _etcd,
        API_SERVER: _api_server,
        CONTROLLER_MANAGER: _controller_manager,
        SCHEDULER: _scheduler,
    }
    return [f"--{name}={value}" for name, value in values[component](spec).items()]


def _etcd(spec: ClusterSpec) -> Mapping[str, str]:
    peer = f"http://{spec.gateway}:2380"
    return {
        "name": spec.name,
        "data-dir": f"{spec.state}/etcd",
        "listen-client-urls": spec.etcd,
        "advertise-client-urls": spec.etcd,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{spec.name}={peer}",
        "unsafe-no-fsync": "true",  # it need not survive this machine, and a slow disk delays every write
        "logger": "zap",
        "log-level": "warn",
    }


def _api_server(spec: ClusterSpec) -> Mapping[str, str]:
    pki = spec.certificates
    return {
        "advertise-address": spec.gateway,
        "bind-address": spec.gateway,
        "secure-port": str(API_PORT),
        "etcd-servers": spec.etcd,
        "service-cluster-ip-range": SERVICE_CIDR,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "client-ca-file": f"{pki}/ca.crt",
        "tls-cert-file": f"{pki}/apiserver.crt",
        "tls-private-key-file": f"{pki}/apiserver.key",
        "kubelet-certificate-authority": f"{pki}/ca.crt",
        "kubelet-client-certificate": f"{pki}/apiserver-kubelet.crt",
        "kubelet-client-key": f"{pki}/apiserver-kubelet.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-signing-key-file": f"{pki}/tokens.key",
        "service-account-key-file": f"{pki}/tokens.key",
        "profiling": "false",
        "v": "1",
    }


def _controller_manager(spec: ClusterSpec) -> Mapping[str, str]:
    pki = spec.certificates
    return {
        "kubeconfig": f"{pki}/controller-manager.kubeconfig",
        "bind-address": spec.gateway,
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "root-ca-file": f"{pki}/ca.crt",
        "service-account-private-key-file": f"{pki}/tokens.key",
        "cluster-signing-cert-file": f"{pki}/ca.crt",
        "cluster-signing-key-file": f"{pki}/ca.key",
        "service-cluster-ip-range": SERVICE_CIDR,
        # A node that is gone is NotReady in 20 s, not 50: tests wait for that. Kubelets report every 4 s.
        "node-monitor-period": "2s",
        "node-monitor-grace-period": "20s",
        "profiling": "false",
        "v": "1",
    }


def _scheduler(spec: ClusterSpec) -> Mapping[str, str]:
    return {
        "kubeconfig": f"{spec.certificates}/scheduler.kubeconfig",
        "bind-address": spec.gateway,
        "leader-elect": "false",
        "profiling": "false",
        "v": "1",
    }


class ControlPlane:
    """The running control plane of a cluster; knows its processes by their cgroups.

    Args:
        spec: the cluster.
        programs: folder of the built binaries.
    """

    def __init__(self, spec: ClusterSpec, programs: Path) -> None:
        self._spec = spec
        self._programs = programs

    def start(self, component: str) -> None:
        """Start a component unless it runs; etcd and the API server are ready on return."""
        group = self._group(component)
        if not group.alive:
            program = ETCD if component == ETCD else self._programs / component
            group.start([program, *arguments(self._spec, component)], self.log(component))
        if component == ETCD:
            self._wait(component, lambda: "true" in self._curl(f"{self._spec.etcd}/health"))
        if component == API_SERVER:
            self._wait(component, lambda: self._curl(f"{self._spec.server}/readyz") == "ok")

    def stop(self, component: str) -> None:
        """Kill a component; nothing happens if it does not run."""
        self._group(component).kill()

    def runs(self, component: str) -> bool:
        """Whether a component runs."""
        return self._group(component).alive

    def pids(self, component: str) -> list[int]:
        """A component's processes."""
        return self._group(component).pids

    def log(self, component: str) -> Path:
        """Its log."""
        return self._spec.logs / f"{component}.log"

    def _group(self, component: str) -> Group:
        return Group(f"{group_name(self._spec)}/{component}")

    def _curl(self, url: str) -> str:
        pki = self._spec.certificates
        identity = ("--cacert", pki / "ca.crt", "--cert", pki / "admin.crt", "--key", pki / "admin.key")
        return run(["curl", "-sSf", "--noproxy", "*", "--max-time", "5", *identity, url]).stdout

    def _wait(self, component: str, ready: object) -> None:
        assert callable(ready)

        def answered() -> bool:
            if not self.runs(component):
                raise ClusterError(f"{component} ended")
            return bool(ready())

        wait_until(answered, f"{component} ready", _START_WITHIN_S, lambda: tail(self.log(component)))


def tail(log: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """The last lines of a log, under its path."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else ["(no log)"]
    return "\n".join([f"{log}:", *text])

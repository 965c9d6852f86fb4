"""A node: namespaces that look like a machine, with containerd, a kubelet and, if asked for, kube-proxy."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from cluster import certificates, network, node_files
from cluster.cgroups import Group, make_everywhere
from cluster.commands import wait_until
from cluster.control_plane import tail
from cluster.errors import ClusterError
from cluster.host import Host
from cluster.node_files import CONTAINERD_SOCKET, KUBE_PROXY_MODES
from cluster.spec import NodeSpec

CONTAINERD = "containerd"
KUBELET = "kubelet"
KUBE_PROXY = "kube-proxy"
_SCRIPT = Path(__file__).with_name("node.sh")
_HIDDEN = ("/run", "/var/lib", "/var/log")
_BOOT_WITHIN_S = 30.0
_CUT = "cluster_cut_off"


class Node(Host):
    """A node, up or down; knows its processes by their cgroups.

    Its "disk", ``var-lib`` and ``var-log`` below its folder, outlives a stop; ``/run`` and bpffs do not.

    Args:
        spec: the node.
        programs: folder of the built binaries.
    """

    namespaces = ("net", "mount", "uts")

    def __init__(self, spec: NodeSpec, programs: Path) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self._programs = programs

    @property
    def address(self) -> str:
        """Its address on eth0."""
        return self.spec.address

    @property
    def cgroup(self) -> Path:
        """Its v2 cgroup: what is attached here reaches its processes and pods, and no other node's."""
        return self.keeper.path.parent

    @property
    def files(self) -> Path:
        """Its file tree, mounts included, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def boot_id(self) -> str:
        """What its kubelet tells this boot from others by."""
        booted = self.spec.home / "booted"
        return booted.read_text() if booted.exists() else ""

    def log(self, program: str) -> Path:
        """Log of one of its programs."""
        return self.spec.home / "logs" / f"{program}.log"

    def install(self) -> None:
        """Make its "disk", certificates and configuration; nothing happens if they are there."""
        home = self.spec.home
        if (home / "kubelet.yaml").exists():
            return
        for folder in ("var-lib", "var-log", "cni", "logs"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        for identity in certificates.of_node(self.spec):
            certificates.issue(self.spec.cluster, identity)
        certificates.write_kubeconfig(self.spec.cluster, self.name, home / "kubeconfig")
        (home / "resolv.conf").write_text("")
        (home / "machine-id").write_text(uuid.uuid4().hex)
        (home / "containerd.toml").write_text(node_files.containerd(self.spec))
        self._set_pod_network(host_ports=False)
        (home / "kubelet.yaml").write_text(node_files.kubelet(self.spec))

    def boot(self) -> None:
        """Make its namespaces, put it on the network, start containerd; unless it is up.

        Raises:
            ClusterError: something of it does not start; has the end of its log.
        """
        self._power_on()
        if not self._group(CONTAINERD).alive:
            self._start(CONTAINERD, "containerd", "--config", self.spec.home / "containerd.toml")

        def answers() -> bool:
            return self.run("ctr", "-a", CONTAINERD_SOCKET, "version", check=False).returncode == 0

        wait_until(answers, f"{self.name}: containerd", _BOOT_WITHIN_S, lambda: tail(self.log(CONTAINERD)))

    def start_kubelet(self) -> None:
        """Start its kubelet, unless it runs."""
        home = self.spec.home
        if self._group(KUBELET).alive:
            return
        self._start(
            KUBELET,
            self._programs / "kubelet",
            f"--config={home}/kubelet.yaml",
            f"--kubeconfig={home}/kubeconfig",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--boot-id-file={home}/booted",
            f"--machine-id-file={home}/machine-id",
            "--v=1",
        )

    def stop_kubelet(self) -> None:
        """Kill its kubelet alone: pods go on, the node gets NotReady."""
        self._group(KUBELET).kill()

    def kube_proxy_on(self, mode: str = "nftables") -> None:
        """Run kube-proxy on it, in one of its modes; a change of mode starts it anew.

        CNI serves the host ports of pods that come from now on.
        """
        if mode not in KUBE_PROXY_MODES:
            raise ClusterError(f"no kube-proxy mode {mode}", hint=f"one of {', '.join(KUBE_PROXY_MODES)}")
        config = self.spec.home / "kube-proxy.yaml"
        text = node_files.kube_proxy(self.spec, mode)
        if self._group(KUBE_PROXY).alive and config.exists() and config.read_text() == text:
            return
        self.kube_proxy_off()
        self._set_pod_network(host_ports=True)
        config.write_text(text)
        self._start(KUBE_PROXY, self._programs / "kube-proxy", f"--config={config}", "--v=1")

    def kube_proxy_off(self, *, cleanup: bool = True) -> None:
        """Kill its kube-proxy and, unless told not to, remove its rules; CNI serves host ports no longer."""
        self._group(KUBE_PROXY).kill()
        self._set_pod_network(host_ports=False)
        if cleanup and (self.spec.home / "kube-proxy.yaml").exists():
            self.run(self._programs / "kube-proxy", "--cleanup", check=False)

    def cut_off(self) -> None:
        """Drop all between it, its pods included, and the API server's address, as a broken link would."""
        gateway = self.spec.cluster.gateway
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority raw; ip {side} {gateway} drop; }}\n"
            for hook, side in (("prerouting", "saddr"), ("output", "daddr"), ("postrouting", "daddr"))
        )
        self.reconnect()
        self.run("nft", "-f", "-", stdin=f"table ip {_CUT} {{\n{chains}}}\n")

    def reconnect(self) -> None:
        """End what `cut_off` did."""
        self.run("nft", "delete", "table", "ip", _CUT, check=False)

    def images(self) -> list[str]:
        """Names of the images that its containerd has."""
        return self.run("ctr", "-a", CONTAINERD_SOCKET, "-n", "k8s.io", "images", "list", "-q").stdout.split()

    def load_image(self, archive: Path) -> None:
        """Import an archive of images, docker's or OCI's, into its containerd; once, unless it changes."""
        done = self.spec.home / "loaded"
        entry = f"{archive} {archive.stat().st_mtime_ns}\n"
        if done.exists() and entry in done.read_text():
            return
        self.run("ctr", "-a", CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import", archive, timeout=300)
        with done.open("a") as file:
            file.write(entry)

    def erase(self) -> None:
        """Remove its folder; it is down."""
        shutil.rmtree(self.spec.home, ignore_errors=True)

    def _power_on(self) -> None:
        home, booted = self.spec.home, self.spec.home / "booted"
        if self.runs and booted.exists():
            return
        for folder in _HIDDEN:
            if home.is_relative_to(folder):
                raise ClusterError(f"{home} is below {folder}, which nodes have of their own")
        mounted = home / "mounted"
        self.kill()  # what a boot that was killed halfway has left
        mounted.unlink(missing_ok=True)
        booted.unlink(missing_ok=True)
        make_everywhere(self.name)
        unshare = ("unshare", "--net", "--mount", "--uts", "--propagation", "private")
        self.keeper.start([*unshare, "sh", _SCRIPT, self.name, home], self.log("boot"))
        wait_until(mounted.exists, f"mounts of {self.name}", _BOOT_WITHIN_S, lambda: tail(self.log("boot")))
        network.connect(self.spec.cluster, self.spec.bridge_end, self.pid, self.address)
        network.add_pod_routes(self.spec, self.pid)
        booted.write_text(
            str(uuid.uuid4())
        )  # what kubelets tell a reboot by; last, as it says that all is done

    def _set_pod_network(self, *, host_ports: bool) -> None:
        """Write what containerd looks at for each new pod."""
        config = self.spec.home / "cni" / "10-cluster.conflist"
        text = node_files.cni(self.spec, host_ports=host_ports)
        if not config.exists() or config.read_text() != text:
            unfinished = config.with_suffix(".new")
            unfinished.write_text(text)
            unfinished.replace(config)

    def _group(self, program: str) -> Group:
        return Group(f"{self.name}/{program}")

    def _start(self, program: str, *argv: str | Path) -> None:
        enter = ["nsenter", "--target", str(self.pid), *(f"--{each}" for each in self.namespaces), "--"]
        self._group(program).start([*enter, *argv], self.log(program))

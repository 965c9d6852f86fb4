"""The cluster's certificate authority, the identities that it vouches for, and kubeconfigs made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.commands import run
from cluster.spec import API_SERVICE_ADDRESS, ClusterSpec, NodeSpec

_DAYS = 365
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
_AUTHORITY = "ca"


@dataclass(frozen=True)
class Identity:
    """Who a certificate is for.

    Attributes:
        file: name of its files, NAME.crt and NAME.key.
        user: common name: the user that the API server sees.
        groups: organisations: the user's groups.
        names: subject alternative names of a server, e.g. ``DNS:localhost``.
    """

    file: str
    user: str
    groups: Sequence[str] = ()
    names: Sequence[str] = ()

    @property
    def subject(self) -> str:
        """The subject as openssl takes it."""
        return "".join(f"/O={group}" for group in self.groups) + f"/CN={self.user}"


def control_plane(spec: ClusterSpec) -> list[Identity]:
    """The identities of the control plane and its administrator."""
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    service.append("kubernetes.default.svc.cluster.local")
    addresses = (spec.gateway, API_SERVICE_ADDRESS, "127.0.0.1")
    names = [f"DNS:{name}" for name in service] + [f"IP:{address}" for address in addresses]
    return [
        Identity("apiserver", "kube-apiserver", names=names),
        Identity("apiserver-kubelet", "kube-apiserver-kubelet-client", ("system:masters",)),
        Identity("admin", "admin", ("system:masters",)),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("kube-proxy", "system:kube-proxy"),
    ]


def of_node(node: NodeSpec) -> list[Identity]:
    """The identities of a node's kubelet: as client, and as server of logs and exec."""
    names = (f"IP:{node.address}", f"DNS:{node.name}")
    return [
        Identity(node.name, f"system:node:{node.name}", ("system:nodes",)),
        Identity(f"{node.name}-server", node.name, names=names),
    ]


def make_authority(spec: ClusterSpec) -> None:
    """Make the authority and the key that signs service account tokens."""
    folder = spec.certificates
    folder.mkdir(parents=True)
    days, subject = ("-days", str(_DAYS)), ("-subj", f"/CN={spec.name}-ca")
    files = ("-keyout", folder / "ca.key", "-out", folder / "ca.crt")
    run(["openssl", "req", "-x509", *_KEY, *days, *subject, *files])
    run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", folder / "tokens.key"])


def issue(spec: ClusterSpec, identity: Identity) -> None:
    """Issue a certificate for a client or, if it has names, a server."""
    folder = spec.certificates
    usage = "serverAuth" if identity.names else "clientAuth"
    extensions = [f"extendedKeyUsage={usage}", "basicConstraints=critical,CA:FALSE"]
    if identity.names:
        extensions.append(f"subjectAltName={','.join(identity.names)}")
    signed_by = ("-CA", folder / f"{_AUTHORITY}.crt", "-CAkey", folder / f"{_AUTHORITY}.key")
    files = ("-keyout", folder / f"{identity.file}.key", "-out", folder / f"{identity.file}.crt")
    added = [word for extension in extensions for word in ("-addext", extension)]
    days, subject = ("-days", str(_DAYS)), ("-subj", identity.subject)
    run(["openssl", "req", "-x509", *_KEY, *days, *subject, *added, *signed_by, *files])


def kubeconfig(spec: ClusterSpec, file: str) -> str:
    """The kubeconfig of an identity, by its files' name."""
    folder = spec.certificates
    return f"""apiVersion: v1
kind: Config
current-context: {spec.name}
clusters:
- name: {spec.name}
  cluster: {{server: "{spec.server}", certificate-authority: "{folder}/ca.crt"}}
users:
- name: {file}
  user: {{client-certificate: "{folder}/{file}.crt", client-key: "{folder}/{file}.key"}}
contexts:
- name: {spec.name}
  context: {{cluster: {spec.name}, user: {file}}}
"""


def write_kubeconfig(spec: ClusterSpec, file: str, to: Path | None = None) -> Path:
    """Write an identity's kubeconfig, beside its certificate if nowhere else; returns the path."""
    path = to or spec.certificates / f"{file}.kubeconfig"
    path.write_text(kubeconfig(spec, file))
    path.chmod(0o600)
    return path

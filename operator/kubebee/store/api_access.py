"""Where the API server is and as whom it is asked: in a pod, or by a kubeconfig file."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kubebee.errors import KubebeeError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HINT = "--kubeconfig FILE names a cluster from outside of it"


class AccessError(KubebeeError):
    """It can't be told where the API server is, or as whom to ask it."""

    reason = "NoCluster"


@dataclass(frozen=True, slots=True)
class _ClientCertificate:
    """Certificate and key in PEM."""

    certificate: bytes
    key: bytes


class ApiAccess:
    """An API server and credentials for it.

    Token and certificate authority are files that the kubelet replaces: both are read when they are needed.

    Args:
        server: URL without a slash at its end.
        authority: file of certificates to trust; None trusts those of the system.
        authority_pem: the same as text.
        token: bearer token, if there is one.
        token_file: file that has it.
        client: certificate to show.
        verify: False: trust any server. Only kubeconfig files ask for that.
    """

    def __init__(
        self,
        server: str,
        *,
        authority: Path | None = None,
        authority_pem: str = "",
        token: str = "",
        token_file: Path | None = None,
        client: _ClientCertificate | None = None,
        verify: bool = True,
    ) -> None:
        self.server = server
        self._authority = authority
        self._authority_pem = authority_pem
        self._token = token
        self._token_file = token_file
        self._client = client
        self._verify = verify
        self._tls: tuple[object, ssl.SSLContext] | None = None

    def headers(self) -> dict[str, str]:
        """Who asks.

        Raises:
            AccessError: the token can't be read.
        """
        token = self._token
        if self._token_file is not None:
            try:
                token = self._token_file.read_text().strip()
            except OSError as error:
                raise AccessError(
                    f"the token can't be read: {error.strerror}",
                    where=str(self._token_file),
                    hint="the pod needs automountServiceAccountToken",
                ) from error
        return {"Authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext | bool:
        """How the server proves who it is; False for a server without TLS.

        Raises:
            AccessError: the certificates can't be read.
        """
        if not self.server.startswith("https:"):
            return False
        try:
            stat = self._authority.stat() if self._authority else None
            stamp = (stat.st_ino, stat.st_mtime_ns) if stat else None
            if self._tls is None or self._tls[0] != stamp:
                self._tls = (stamp, self._context())
        except (OSError, ssl.SSLError) as error:
            raise AccessError(
                f"certificates can't be used: {error}",
                where=str(self._authority or "kubeconfig"),
                hint="check the certificate authority and the client's certificate",
            ) from error
        return self._tls[1]

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._authority, cadata=self._authority_pem or None)
        # Python 3.13 asks more of a cluster's authority (RFC 5280: key usage) than kubectl and kubelets do.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self._verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self._client is not None:
            # The ssl module takes a client's certificate from a file only.
            with tempfile.NamedTemporaryFile(prefix="kubebee-") as file:
                file.write(self._client.certificate + b"\n" + self._client.key)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> ApiAccess:
    """Access of a pod, by its service account.

    Args:
        environment: KUBERNETES_SERVICE_HOST and _PORT; the chart sets them to a node's own way to the API
            server where no kube-proxy serves the Service.
        folder: where the service account is mounted.

    Raises:
        AccessError: this is no pod.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.exists():
        missing = str(token) if host else "KUBERNETES_SERVICE_HOST"
        raise AccessError("this is not a pod of a cluster", where=missing, hint=_HINT)
    address = f"[{host}]" if ":" in host else host
    return ApiAccess(f"https://{address}:{port}", authority=folder / "ca.crt", token_file=token)


def pod_namespace(folder: Path = SERVICE_ACCOUNT) -> str | None:
    """Namespace of this pod, None outside of one."""
    try:
        return (folder / "namespace").read_text().strip() or None
    except OSError:
        return None


def from_kubeconfig(path: Path) -> ApiAccess:
    """Access by a kubeconfig's current context.

    Raises:
        AccessError: it can't be read, or it signs in by a way that is not supported.
    """
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", "context", config["current-context"])
        cluster = _named(config, "clusters", "cluster", context["cluster"])
        user = _named(config, "users", "user", context["user"])
        unsupported = {"exec", "auth-provider", "username"} & user.keys()
        if unsupported:
            raise AccessError(
                f"signing in by {', '.join(sorted(unsupported))} is not supported",
                where=str(path),
                hint="use a token or a client certificate",
            )
        return ApiAccess(
            str(cluster["server"]).rstrip("/"),
            authority=_path(path, cluster.get("certificate-authority")),
            authority_pem=_decoded(cluster, "certificate-authority-data").decode(),
            token=user.get("token", ""),
            token_file=_path(path, user.get("tokenFile")),
            client=_client(path, user),
            verify=not cluster.get("insecure-skip-tls-verify", False),
        )
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise AccessError(f"no cluster can be read from it: {why}", where=str(path), hint=_HINT) from error


def _named(config: dict[str, Any], listed: str, field: str, name: str) -> dict[str, Any]:
    for entry in config[listed]:
        if entry["name"] == name:
            return dict(entry[field])
    raise LookupError(f"{listed} has no {name}")


def _path(kubeconfig: Path, named: str | None) -> Path | None:
    """Paths in a kubeconfig are relative to it."""
    return kubeconfig.parent / named if named else None


def _decoded(entry: dict[str, Any], field: str) -> bytes:
    try:
        return base64.b64decode(entry.get(field, ""), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{field}: {error}") from error


def _client(kubeconfig: Path, user: dict[str, Any]) -> _ClientCertificate | None:
    parts = []
    for field in ("client-certificate", "client-key"):
        file = _path(kubeconfig, user.get(field))
        parts.append(_decoded(user, f"{field}-data") or (file.read_bytes() if file else b""))
    return _ClientCertificate(*parts) if all(parts) else None

"""The `kubernetes` client of a pod or of a kubeconfig, and the same access for kopf."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import kopf
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from kubebee.errors import KubebeeError

STRICT = ssl.VERIFY_X509_STRICT
"""On by default from Python 3.13: a cluster's own authority must then have extensions (RFC 5280: key usage)
that kubectl and kubelets do not ask for. Names, dates and the chain are checked without it too."""


_SOCKET = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
]
"""That nobody is at the other end any more is noticed within 30 s, also on a watch, where nothing is sent."""


class AccessError(KubebeeError):
    """It can't be told where the API server is, or as whom to ask it."""

    reason = "NoCluster"


class _TlsConnection(HTTPSConnection):
    """A connection with a TLS context of its own.

    urllib3 loads authority and certificate into the context whenever it connects. Were it one for all,
    OpenSSL would free what another thread's handshake reads: a segmentation fault once in some starts, when
    all threads connect at once.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        context = create_urllib3_context(cert_reqs=settings.get("cert_reqs"))
        context.verify_flags &= ~STRICT
        if not (settings.get("ca_certs") or settings.get("ca_cert_data")):
            context.load_default_certs()
        super().__init__(*args, **settings, ssl_context=context)


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def client(kubeconfig: Path | None, connections: int) -> ApiClient:
    """A client of the API server.

    Args:
        kubeconfig: file whose current context to use; None: as the pod that this is, else as KUBECONFIG says.
        connections: kept open at most.

    Raises:
        AccessError: there is no access.
    """
    configuration = Configuration()
    configuration.retries = False  # a request is made once; see `api`
    configuration.connection_pool_maxsize = connections
    configuration.socket_options = _SOCKET
    try:
        if kubeconfig is not None:
            load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
        else:
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException:
                load_kube_config(client_configuration=configuration, persist_config=False)
    except ConfigException as error:
        raise AccessError(
            f"no cluster: {error}", where=str(kubeconfig or ""), hint="--kubeconfig FILE names a cluster"
        ) from error
    api = ApiClient(configuration)
    connect = api.rest_client.pool_manager
    connect.pool_classes_by_scheme = {**connect.pool_classes_by_scheme, "https": _TlsPool}
    return api


class _Connection(kopf.ConnectionInfo):
    """As kopf has it, asking no more of the certificate authority than other clients do."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~STRICT
        return context


def for_kopf(configuration: Configuration) -> kopf.ConnectionInfo:
    """The same access for kopf, with the token as it is now: kopf asks again when it is refused."""
    settings = configuration.auth_settings()
    scheme, _, token = str(settings["BearerToken"]["value"] if settings else "").partition(" ")
    return _Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )

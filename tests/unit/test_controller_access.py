"""How the controller connects: TLS that several threads use at once."""

from __future__ import annotations

import ssl
from pathlib import Path

import yaml
from urllib3.connection import HTTPSConnection

from kubebee.controller.access import STRICT, client


def connections(folder: Path, **cluster: object) -> list[HTTPSConnection]:
    """Two connections of one client, not connected yet."""
    kubeconfig = folder / "kubeconfig"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", **cluster}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(yaml.safe_dump(content))
    pool = client(kubeconfig, 2).rest_client.pool_manager.connection_from_url("https://127.0.0.1:1")
    made = [pool._get_conn(), pool._get_conn()]
    assert all(isinstance(connection, HTTPSConnection) for connection in made)
    return [connection for connection in made if isinstance(connection, HTTPSConnection)]


def context(connection: HTTPSConnection) -> ssl.SSLContext:
    assert connection.ssl_context is not None
    return connection.ssl_context


def test_no_two_connections_share_a_tls_context(tmp_path: Path) -> None:
    one, other = connections(tmp_path)
    assert context(one) is not context(other)


def test_an_authority_needs_no_more_than_kubectl_asks_for(tmp_path: Path) -> None:
    made, _ = map(context, connections(tmp_path))
    assert not made.verify_flags & STRICT
    assert made.verify_mode == ssl.CERT_REQUIRED
    assert made.check_hostname


def test_without_an_authority_that_of_the_system_counts(tmp_path: Path) -> None:
    made, _ = map(context, connections(tmp_path))
    assert made.cert_store_stats()["x509_ca"]


def test_a_kubeconfig_may_do_without_any(tmp_path: Path) -> None:
    made, _ = map(context, connections(tmp_path, **{"insecure-skip-tls-verify": True}))
    assert made.verify_mode == ssl.CERT_NONE
    assert not made.check_hostname

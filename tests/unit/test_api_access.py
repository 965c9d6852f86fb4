"""Where the API server is and as whom it is asked: service accounts, kubeconfigs, new certificates."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubebee.store import api_access
from kubebee.store.api_access import AccessError, ApiAccess
from kubebee.store.api_client import ApiClient, ApiError
from support.api_server import ApiServer, bound


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -days 2"
    files = ("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1]))
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return paths


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """What the kubelet mounts into a pod."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "namespace").write_text("somewhere")
    return folder


@pytest.fixture
def api(tmp_path: Path, account: Path) -> Iterator[ApiServer]:
    """A server that the pod trusts."""
    files = certificate(tmp_path, "server")
    (account / "ca.crt").write_bytes(files[0].read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    with ApiServer(bound(socket.socket), context) as server:
        server.token = "first"
        yield server


def in_pod(server: ApiServer, account: Path) -> ApiAccess:
    """Access of a pod."""
    address = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    return api_access.in_cluster(address, account)


async def ask(access: ApiAccess) -> None:
    """One request; raises what it fails with."""
    async with ApiClient(access) as client:
        ours = {"fieldSelector": "metadata.name=node1"}
        await client.read("list", "/apis/kubebee.dev/v1alpha1/bpfnodes", ours)


def test_a_pod_asks_with_its_token_and_trusts_its_authority(api: ApiServer, account: Path) -> None:
    asyncio.run(ask(in_pod(api, account)))
    assert api_access.pod_namespace(account) == "somewhere"


def test_a_token_and_an_authority_that_are_exchanged_count_at_once(
    api: ApiServer, account: Path, tmp_path: Path
) -> None:
    access, right = in_pod(api, account), (account / "ca.crt").read_bytes()
    (account / "ca.crt").write_bytes(certificate(tmp_path, "another")[0].read_bytes())
    with pytest.raises(ApiError, match="certificate"):
        asyncio.run(ask(access))
    (account / "ca.crt").unlink()
    (account / "ca.crt").write_bytes(right)
    api.token = "second"
    with pytest.raises(ApiError, match="401") as refused:
        asyncio.run(ask(access))
    assert refused.value.reason == "ApiRefused"
    (account / "token").write_text("second")
    asyncio.run(ask(access))


@pytest.mark.parametrize("missing", ["ca.crt", "token"])
def test_a_file_that_is_missing_is_named(api: ApiServer, account: Path, missing: str) -> None:
    access = in_pod(api, account)
    (account / missing).unlink()
    with pytest.raises(AccessError) as error:
        asyncio.run(ask(access))
    assert error.value.where.endswith(missing)


def test_outside_of_a_pod_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="--kubeconfig"):
        api_access.in_cluster({}, tmp_path)


def test_an_ipv6_address_is_put_in_brackets(account: Path) -> None:
    access = api_access.in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}, account)
    assert access.server == "https://[fd00::1]:443"


def kubeconfig(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig of one context."""
    lists = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "config"
    path.write_text(json.dumps({"current-context": "x", **lists}))
    return path


def test_a_kubeconfig_leads_there_by_files_beside_it(api: ApiServer, account: Path) -> None:
    path = kubeconfig(
        account, {"server": f"{api.url}/", "certificate-authority": "ca.crt"}, {"tokenFile": "token"}
    )
    asyncio.run(ask(api_access.from_kubeconfig(path)))


def test_a_kubeconfigs_client_certificate_is_shown(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client[0])
    context.load_cert_chain(*server)
    context.verify_mode = ssl.CERT_REQUIRED
    with ApiServer(bound(socket.socket), context) as api:
        cluster = {"server": api.url, "certificate-authority": "server.crt"}
        user = {"client-certificate": "client.crt", "client-key": "client.key"}
        asyncio.run(ask(api_access.from_kubeconfig(kubeconfig(tmp_path, cluster, user))))
        with pytest.raises(ApiError):
            asyncio.run(ask(api_access.from_kubeconfig(kubeconfig(tmp_path, cluster, {}))))


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({}, {}, "server"),
        ({"server": "https://x"}, {"exec": {"command": "aws"}}, "signing in by exec"),
        ({"server": "https://x", "certificate-authority-data": "%"}, {}, "certificate-authority-data"),
    ],
)
def test_a_kubeconfig_that_is_no_use_is_refused_by_name(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str
) -> None:
    path = kubeconfig(tmp_path, cluster, user)
    with pytest.raises(AccessError, match=said) as error:
        api_access.from_kubeconfig(path)
    assert error.value.where == str(path)

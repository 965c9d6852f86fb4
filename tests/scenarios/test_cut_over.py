"""A running kubebee takes a node over from kube-proxy, whose rules are real, and no connection notices."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from kubebee.bpf.map import Map
from lab import BACKENDS, VIP, Lab
from lab.netns import Namespace
from support import kube_proxy
from support.node_agent import served
from support.running import Running, wait_for
from support.services import endpoint_slice, service

pytestmark = pytest.mark.root

ADDRESSES = tuple(BACKENDS.values())
SERVED = {
    (VIP, "tcp", 80): [f"{address}:80" for address in ADDRESSES],
    (VIP, "udp", 53): [f"{address}:53" for address in ADDRESSES],
}
PORTS = [
    {"name": "http", "port": 80, "protocol": "TCP"},
    {"name": "dns", "port": 53, "protocol": "UDP"},
]
SERVICE = service("web", clusterIP=VIP, ports=PORTS)
ENDPOINTS = endpoint_slice(*ADDRESSES, ports=PORTS)
REQUEST = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
MODES: dict[str, Callable[[Namespace, kube_proxy.Served], None]] = {
    "nftables": kube_proxy.nftables,
    "iptables": kube_proxy.iptables,
}


def balancer(mode: str = "Auto", **cut_over: bool) -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": "cluster"},
        "spec": {
            "interfaces": {"all": True},
            "services": {"all": True},
            "northSouth": {"mode": mode},
            "healthzPort": kube_proxy.HEALTHZ,
            "cutOver": {"from": "KubeProxy", **cut_over},
        },
    }


def connect(client: Namespace, kind: int, port: int) -> socket.socket:
    opened = client.socket(kind)
    opened.settimeout(3)
    opened.connect((VIP, port))
    return opened


def ask(opened: socket.socket) -> str:
    """The backend that a connection leads to."""
    if opened.type == socket.SOCK_DGRAM:
        opened.send(b"?")
        return opened.recv(100).decode()
    opened.sendall(REQUEST)
    said = b""
    while not said.endswith(b"\n") or b"\r\n\r\n" not in said:
        part = opened.recv(1000)
        assert part, "the connection was ended"
        said += part
    return said.rpartition(b"\r\n\r\n")[2].decode().strip()


class Load:
    """Connections that are asked all the time: each must be answered, by the backend that it has."""

    def __init__(self, client: Namespace, tcp: int = 30, udp: int = 30) -> None:
        self._client = client
        self.opened = [connect(client, socket.SOCK_STREAM, 80) for _ in range(tcp)]
        self.opened += [connect(client, socket.SOCK_DGRAM, 53) for _ in range(udp)]
        self.first = [ask(one) for one in self.opened]
        self.broken: list[str] = []
        self.rounds = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set() and not self.broken:
            for one, first in zip(self.opened, self.first, strict=True):
                try:
                    now = ask(one)
                except (OSError, AssertionError) as error:
                    now = repr(error)
                if now != first:
                    self.broken.append(f"{one.type.name} from {one.getsockname()}: {first}, now {now}")
            self.rounds += 1

    def again(self) -> None:
        """Wait until each was asked once more; none may be broken then."""
        before = self.rounds
        wait_for("all are asked again", lambda: self.broken or self.rounds >= before + 2)
        assert not self.broken

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for one in self.opened:
            one.close()


@pytest.fixture
def running(lab: Lab, tmp_path: Path) -> Iterator[Running]:
    with Running(lab.node_command, tmp_path) as started:
        started.apply(SERVICE)
        started.apply(ENDPOINTS)
        yield started


def flows(lab: Lab) -> int:
    """Connections by packets that are kubebee's."""
    (pin,) = (lab.node.files / "sys/fs/bpf/kubebee/m").glob("servicelb-*/kb_lb_flow@*")
    with Map.from_pin(str(pin)) as opened:
        return sum(1 for _ in opened.keys())  # noqa: SIM118 (a map of the kernel)


def said(running: Running, reason: str) -> list[str]:
    events = (event for event in running.events() if event["name"] == "cluster")
    return [event["message"] for event in events if event["reason"] == reason]


@pytest.mark.parametrize(("mode", "rules"), [("Auto", "nftables"), ("TC", "iptables")])
def test_connections_by_kube_proxy_go_on_and_new_ones_are_kubebees(
    lab: Lab, running: Running, rules: str, mode: str
) -> None:
    MODES[rules](lab.node.network, SERVED)
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(contextlib.ExitStack())
        proxy.enter_context(kube_proxy.process(lab.node.network))
        load = stack.enter_context(Load(lab.client))
        assert set(load.first) == set(BACKENDS)
        running.apply(balancer(mode))
        running.wait_ready("ServiceLB", "cluster")
        wait_for("it has taken over", lambda: said(running, "CutOver"))
        load.again()
        assert flows(lab) == 0, "those of kube-proxy must not become kubebee's"
        with Load(lab.client, 10, 10) as new:
            new.again()
            assert flows(lab) == 20
            assert "kube-proxy runs here" in running.status("ServiceLB", "cluster").message
            assert _theirs(lab), "rules of a kube-proxy that runs are left"
            proxy.close()
            wait_for("its rules are removed", lambda: said(running, "KubeProxyRulesRemoved"))
            assert not _theirs(lab)
            for each in (load, new):
                each.again()
    assert "192.0.2.1" in kube_proxy.rules(lab.node.network) or rules == "nftables"


def _theirs(lab: Lab) -> list[str]:
    """Lines of kube-proxy's rules, by either mode."""
    text = kube_proxy.rules(lab.node.network)
    return [line for line in text.splitlines() if "table ip kube-proxy" in line or "KUBE-S" in line]


@pytest.mark.skipif(not kube_proxy.PROGRAM, reason="KUBEBEE_KUBE_PROXY does not name a kube-proxy")
@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_the_real_kube_proxy_is_taken_over_from(
    lab: Lab, running: Running, tmp_path: Path, mode: str
) -> None:
    with served(lab) as api, contextlib.ExitStack() as stack:
        api.put(SERVICE, ENDPOINTS)
        proxy = stack.enter_context(contextlib.ExitStack())
        proxy.enter_context(kube_proxy.real(lab, api, tmp_path, mode))
        load = stack.enter_context(Load(lab.client))
        assert set(load.first) == set(BACKENDS)
        running.apply(balancer())
        running.wait_ready("ServiceLB", "cluster")
        wait_for("it has taken over", lambda: said(running, "CutOver"))
        load.again()
        assert flows(lab) == 0
        with Load(lab.client, 10, 10) as new:
            new.again()
            assert flows(lab) == 20
            proxy.close()
            wait_for("its rules are removed", lambda: said(running, "KubeProxyRulesRemoved"))
            assert not _theirs(lab)
            for each in (load, new):
                each.again()


def test_connections_that_begin_while_it_takes_over_are_not_broken(lab: Lab, running: Running) -> None:
    kube_proxy.nftables(lab.node.network, SERVED)
    loads: list[Load] = []
    over = threading.Event()

    def begin() -> None:
        while not over.is_set():
            load = Load(lab.client, 3, 3)
            load.__enter__()
            loads.append(load)
            time.sleep(0.05)

    thread = threading.Thread(target=begin)
    thread.start()
    try:
        with kube_proxy.process(lab.node.network):
            running.apply(balancer())
            wait_for("it has taken over", lambda: said(running, "CutOver"))
            wait_for("connections are kubebee's", lambda: flows(lab))
            over.set()
            thread.join()
            for load in loads:
                load.again()
    finally:
        over.set()
        thread.join()
        for load in loads:
            load.__exit__(None, None, None)
    assert not [text for load in loads for text in load.broken]


_SENDER = f"""
import socket, sys
opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
opened.settimeout(3)
for _ in sys.stdin:
    opened.sendto(b"?", ("{VIP}", 53))
    print(opened.recv(100).decode(), flush=True)
"""


@contextlib.contextmanager
def senders(lab: Lab, number: int) -> Iterator[list[Callable[[], str]]]:
    """Processes of the node that send from one socket without connecting; a call asks once."""
    started = [
        subprocess.Popen(
            lab.node_command(["python3", "-c", _SENDER]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]

    def asks(process: subprocess.Popen[str]) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        yield [lambda one=one: asks(one) for one in started]  # type: ignore[misc]
    finally:
        for one in started:
            one.communicate("", 10)


def test_sockets_of_the_node_that_send_without_connecting_stay_with_their_backend(
    lab: Lab, running: Running
) -> None:
    kube_proxy.nftables(lab.node.network, SERVED)
    with kube_proxy.process(lab.node.network), senders(lab, 8) as asks:
        before = [ask() for ask in asks]
        assert set(before) == set(BACKENDS)
        running.apply(balancer())
        wait_for("it has taken over", lambda: said(running, "CutOver"))
        for _ in range(5):
            assert [ask() for ask in asks] == before


def test_a_restarted_kubebee_goes_on_with_what_it_had_taken_over(lab: Lab, running: Running) -> None:
    kube_proxy.nftables(lab.node.network, SERVED)
    with kube_proxy.process(lab.node.network), Load(lab.client, 10, 10) as load:
        running.apply(balancer())
        wait_for("it has taken over", lambda: said(running, "CutOver"))
        running.kill()
        running.start()
        wait_for("it has adopted", lambda: said(running, "Adopted"))
        load.again()
        assert flows(lab) == 0
        assert len(said(running, "CutOver")) == 1


def test_a_client_may_use_a_port_of_an_ended_connection_again(lab: Lab, running: Running) -> None:
    """conntrack still has the old one, which leads to a backend that knows it no more."""
    kube_proxy.nftables(lab.node.network, SERVED)
    with kube_proxy.process(lab.node.network):
        first = connect(lab.client, socket.SOCK_STREAM, 80)
        assert ask(first) in BACKENDS
        port = first.getsockname()[1]
        running.apply(balancer())
        wait_for("it has taken over", lambda: said(running, "CutOver"))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        first.close()
        with lab.client.socket() as second:
            second.settimeout(3)
            second.bind(("", port))
            second.connect((VIP, 80))
            assert ask(second) in BACKENDS
        assert flows(lab) == 1


def handing_back(mode: str = "Auto") -> dict[str, Any]:
    return balancer(mode, handBack=True)


def takes(lab: Lab, port: int) -> bool:
    """Whether a process of the node gets a port; raises OSError if not."""
    with kube_proxy.process(lab.node.network, port):
        return True


def is_gone(running: Running) -> bool:
    """Whether kubebee has nothing attached any more."""
    running.delete("servicelb-cluster.yaml")
    return bool(wait_for("it is removed", lambda: said(running, "Removed")))


@pytest.mark.parametrize("mode", ["Auto", "TC"])
def test_connections_are_handed_back_and_outlive_the_balancer(lab: Lab, running: Running, mode: str) -> None:
    running.apply(balancer(mode))
    wait_for("it serves", lambda: said(running, "CutOver"))
    with Load(lab.client) as load:
        assert set(load.first) == set(BACKENDS)
        assert flows(lab) == 60
        running.apply(handing_back(mode))
        running.wait_ready("ServiceLB", "cluster", generation=2)
        kube_proxy.nftables(lab.node.network, SERVED)
        with kube_proxy.process(lab.node.network, kube_proxy.METRICS):
            wait_for("it was handed back", lambda: said(running, "HandedBack"))
            load.again()
            assert flows(lab) == 0, "the kernel translates them"
            with Load(lab.client, 10, 10) as new:
                assert flows(lab) == 0, "new ones are kube-proxy's"
                wait_for("healthzPort is free", lambda: takes(lab, kube_proxy.HEALTHZ))
                assert is_gone(running)
                for each in (load, new):
                    each.again()


def test_it_takes_over_again_when_it_shall_not_hand_back_any_more(lab: Lab, running: Running) -> None:
    running.apply(balancer())
    wait_for("it serves", lambda: said(running, "CutOver"))
    running.apply(handing_back())
    running.wait_ready("ServiceLB", "cluster", generation=2)
    kube_proxy.nftables(lab.node.network, SERVED)
    with Load(lab.client, 5, 5) as load, kube_proxy.process(lab.node.network, kube_proxy.METRICS):
        wait_for("it was handed back", lambda: said(running, "HandedBack"))
        with Load(lab.client, 5, 5) as its:
            running.apply(balancer())
            wait_for("it serves again", lambda: "20 go on by kube-proxy's" in said(running, "CutOver")[-1])
            with Load(lab.client, 5, 5) as new:
                assert flows(lab) == 10
                for each in (load, its, new):
                    each.again()


def test_a_restarted_kubebee_goes_on_handing_back(lab: Lab, running: Running) -> None:
    running.apply(handing_back())
    wait_for("it serves", lambda: said(running, "CutOver"))
    with Load(lab.client, 5, 5) as load:
        kube_proxy.nftables(lab.node.network, SERVED)
        with kube_proxy.process(lab.node.network, kube_proxy.METRICS):
            wait_for("it was handed back", lambda: said(running, "HandedBack"))
            running.kill()
            running.start()
            wait_for("it has adopted", lambda: said(running, "Adopted"))
            with Load(lab.client, 5, 5) as new:
                for each in (load, new):
                    each.again()
                assert flows(lab) == 0
                assert len(said(running, "HandedBack")) == 1


def test_without_a_kube_proxy_nothing_is_handed_back(lab: Lab, running: Running) -> None:
    running.apply(balancer())
    wait_for("it serves", lambda: said(running, "CutOver"))
    running.apply(handing_back())
    status = running.wait_ready("ServiceLB", "cluster", generation=2)
    kube_proxy.nftables(lab.node.network, SERVED)
    assert "waits for a kube-proxy" in status.message
    with Load(lab.client, 5, 5) as load:
        load.again()
        assert flows(lab) == 10


@pytest.mark.skipif(not kube_proxy.PROGRAM, reason="KUBEBEE_KUBE_PROXY does not name a kube-proxy")
@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_from_the_real_kube_proxy_and_back_to_it(
    lab: Lab, running: Running, tmp_path: Path, mode: str
) -> None:
    with served(lab) as api, contextlib.ExitStack() as stack:
        api.put(SERVICE, ENDPOINTS)
        loads: list[Load] = []

        def all_go_on(more: int = 10) -> None:
            loads.append(stack.enter_context(Load(lab.client, more, more)))
            for load in loads:
                load.again()

        with kube_proxy.real(lab, api, tmp_path, mode):
            all_go_on()
            running.apply(balancer())
            wait_for("it has taken over", lambda: said(running, "CutOver"))
            all_go_on()
            assert flows(lab) == 20
        wait_for("its rules are removed", lambda: said(running, "KubeProxyRulesRemoved"))
        all_go_on()
        assert flows(lab) == 40
        running.apply(handing_back())
        stack.enter_context(kube_proxy.real(lab, api, tmp_path, mode))
        wait_for("it was handed back", lambda: said(running, "HandedBack"))
        all_go_on()
        assert flows(lab) == 0
        assert _theirs(lab), "its rules are let alone"
        assert is_gone(running)
        all_go_on()

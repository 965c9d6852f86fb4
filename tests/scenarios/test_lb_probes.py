"""Checks by real sockets, in a network of their own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kubebee.lb.health.check import Check, Probe, Target
from kubebee.lb.health.prober import AT_ONCE, Prober
from kubebee.lb.health.probes import probe
from kubebee.lb.model import parse_address
from lab.netns import Namespace

pytestmark = pytest.mark.root

PORT = 8080
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def alone(netns: Callable[[str], Namespace]) -> Namespace:
    """A network with nothing but a loopback interface."""
    made = netns("checks")
    made.ip("link", "set", "lo", "up")
    return made


def target(kind: Probe, address: str = "127.0.0.1", *, timeout: float = 20.0, path: str = "/") -> Target:
    return Target(parse_address(address), PORT, Check(kind, path=path, timeout=timeout))


def tried(where: Namespace, what: Target) -> str:
    return where.call(lambda: asyncio.run(probe(what)))


def tried_with(
    where: Namespace, what: Target, handler: Handler, context: ssl.SSLContext | None = None
) -> str:
    """What a check says of a server."""

    async def both() -> str:
        host = "127.0.0.1" if len(what.address) == 4 else "::1"
        server = await asyncio.start_server(handler, host, PORT, ssl=context)
        async with server:
            return await probe(what)

    return where.call(lambda: asyncio.run(both()))


def answering(answer: bytes, asked: list[bytes] | None = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(head)
        writer.write(answer)
        await writer.drain()
        writer.close()

    return handle


async def greeting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail ready\r\n")
    writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_server_that_accepts_passes(alone: Namespace, address: str) -> None:
    assert tried_with(alone, target(Probe.TCP, address), silent) == ""


def test_a_closed_port_is_refused(alone: Namespace) -> None:
    assert tried(alone, target(Probe.TCP)) == "connection refused"


def test_checks_leave_no_sockets_behind(alone: Namespace) -> None:
    assert tried_with(alone, target(Probe.TCP), silent) == ""
    assert alone.run("ss", "-Htan", "state", "time-wait").stdout == ""


@pytest.mark.parametrize("kind", list(Probe))
def test_what_can_not_be_reached_fails(alone: Namespace, kind: Probe) -> None:
    assert tried(alone, target(kind, "198.51.100.1")) == "network is unreachable"


def test_a_host_that_is_not_there_fails_a_udp_check_too(alone: Namespace) -> None:
    alone.ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    alone.ip("link", "set", "left", "up")
    alone.ip("link", "set", "right", "up")
    alone.ip("address", "add", "10.9.0.1/24", "dev", "left")
    assert tried(alone, target(Probe.UDP, "10.9.0.77")) == "no route to host"


@pytest.mark.parametrize(
    ("status", "why"), [(200, ""), (302, ""), (404, "HTTP status 404"), (503, "HTTP status 503")]
)
def test_an_http_check_goes_by_the_status(alone: Namespace, status: int, why: str) -> None:
    asked: list[bytes] = []
    answer = f"HTTP/1.1 {status} so\r\nContent-Length: 0\r\n\r\n".encode()
    assert tried_with(alone, target(Probe.HTTP, path="/ready?x=1"), answering(answer, asked)) == why
    assert asked[0].startswith(b"GET /ready?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n")


@pytest.mark.parametrize(
    "answer", [b"220 mail ready\r\n", b"HTTP", b"HTTP/1.1 2x0 so\r\n", b"x" * 9000 + b"\n"]
)
def test_another_protocol_is_no_answer_to_an_http_check(alone: Namespace, answer: bytes) -> None:
    assert tried_with(alone, target(Probe.HTTP), answering(answer)) == "its answer is no HTTP"


def test_a_connection_that_is_closed_is_no_answer(alone: Namespace) -> None:
    why = "it closed the connection without an answer"
    assert tried_with(alone, target(Probe.HTTP), answering(b"")) == why


def test_silence_fails_after_the_timeout(alone: Namespace) -> None:
    assert tried_with(alone, target(Probe.HTTP, timeout=0.2), silent) == "no answer within 0.2 s"


def test_an_https_check_takes_any_certificate(alone: Namespace, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=other.example -keyout {} -out {}"
    subprocess.run(make.format(key, certificate).split(), check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    ok = answering(b"HTTP/1.1 200 OK\r\n\r\n")
    assert tried_with(alone, target(Probe.HTTPS), ok, context) == ""
    assert tried_with(alone, target(Probe.HTTPS), greeting).startswith("TLS: ")


def test_a_datagram_that_is_refused_fails(alone: Namespace) -> None:
    assert tried(alone, target(Probe.UDP)) == "connection refused"


def test_a_datagram_that_is_taken_passes_answered_or_not(alone: Namespace) -> None:
    def look() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", PORT))
            return asyncio.run(probe(target(Probe.UDP, timeout=0.2)))

    assert alone.call(look) == ""


def test_no_more_than_so_many_are_tried_at_once_and_all_come_to_their_turn() -> None:
    now, most, seen = 0, 0, set[Target]()
    wanted = {
        Target(number.to_bytes(4, "big"), 80, Check(Probe.TCP, interval=0.01)) for number in range(1000)
    }

    async def slow(one: Target) -> str:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        try:
            await asyncio.sleep(0.02)
        finally:
            now -= 1
        return ""

    async def until_all_were_tried() -> None:
        every = asyncio.Event()

        def result(one: Target, _: str) -> None:
            seen.add(one)
            if seen == wanted:
                every.set()

        prober = Prober(slow, result)
        prober.want(wanted)
        running = asyncio.create_task(prober.run())
        await every.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(until_all_were_tried())
    assert most == AT_ONCE
    assert now == 0, "those at work are ended too"

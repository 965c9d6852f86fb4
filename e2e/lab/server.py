"""A backend that says its name over HTTP and UDP: ``server.py NAME TCP_PORTS UDP_PORTS``."""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial

IP_PKTINFO = 8  # <linux/in.h>; the socket module has it from Python 3.14 on
PKTINFO_BYTES = 64


async def serve_http(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request on a connection with the backend's name; the connection stays open."""
    body = f"{name}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(head + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client is done
    finally:
        writer.close()


def udp_socket(port: int) -> socket.socket:
    """A UDP socket that learns which address a datagram was sent to."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.bind(("0.0.0.0", port))  # noqa: S104 (a namespace of its own)
    sock.setblocking(False)
    return sock


def answer_udp(name: str, sock: socket.socket) -> None:
    """Answer one datagram from the address it was sent to, which with direct return is the VIP."""
    _, ancillary, _, client = sock.recvmsg(2048, PKTINFO_BYTES)
    info = next(data for _, kind, data in ancillary if kind == IP_PKTINFO)
    source = bytes(4) + info[8:12] + bytes(4)  # in_pktinfo: ifindex, spec_dst (the source to use), addr
    sock.sendmsg([name.encode()], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, client)


async def main(name: str, tcp_ports: list[int], udp_ports: list[int]) -> None:
    """Serve until stdin ends: a backend cannot outlive the lab that started it."""
    loop = asyncio.get_running_loop()
    for port in tcp_ports:
        await asyncio.start_server(partial(serve_http, name), "0.0.0.0", port)  # noqa: S104 (its own namespace)
    for port in udp_ports:
        sock = udp_socket(port)
        loop.add_reader(sock, answer_udp, name, sock)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    _, own_name, tcp, udp = sys.argv
    asyncio.run(main(own_name, [int(p) for p in tcp.split(",")], [int(p) for p in udp.split(",")]))

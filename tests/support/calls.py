"""Scripts for Python that make a node's kernel do what BPF programs wait for."""

from __future__ import annotations

PYTHON = ("/usr/bin/python3", "-c")
"""The system's: scripts run in namespaces of their own."""

ADDRESS_CALLS = """
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        one.bind((address, 0))
        other.sendto(b"x", one.getsockname())
        one.settimeout(3)
        one.recvfrom(10)
        other.connect(one.getsockname())
"""
"""bind, connect, sendmsg and recvmsg of both families."""

FAILING_LOOKUP = "import socket; socket.getaddrinfo('no-number', None, flags=socket.AI_NUMERICHOST)"

CONGESTION_WINDOW = r"""
import socket, struct, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as one:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"kb_fixed")
    one.sendall(b"GET / HTTP/1.0\r\n\r\n")
    one.recv(4096)
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    print(struct.unpack_from("=I", info, 80)[0])  # tcpi_snd_cwnd
"""
"""Of a connection to a web server under the congestion control of examples/: its window, in segments."""

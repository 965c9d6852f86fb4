"""Many packets through one program, each in a few microseconds more than it takes itself."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator

from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from kubebee.bpf.constants import Cmd
from kubebee.bpf.program import Program
from kubebee.bpf.syscall import bpf_errno

_TEST = struct.Struct("=IIIIQQII")  # prog_fd, retval, data_size_in/out, data_in/out, repeat, duration
_SIZE_OUT = struct.Struct("=I")
_SIZE_OUT_AT, _RETVAL_AT = 12, 4
_ROOM = 2048
_ETHERNET = 14


class PacketLoop:
    """One packet, sent again and again from other clients.

    Args:
        program: what it meets.
        packet: TCP over IPv4 or IPv6 without options; its source is exchanged. Checksums stay as they are:
            nothing that is tested by this looks at them.
        sent: what the program returns for a packet that goes to a backend.
    """

    def __init__(self, program: Program, packet: Packet, sent: int) -> None:
        six = IPv6 in packet
        raw = bytes(packet)
        self._frame = ctypes.create_string_buffer(raw, len(raw))
        self._out = ctypes.create_string_buffer(_ROOM)
        self._attr = bytearray(
            _TEST.pack(
                program.fd,
                0,
                len(raw),
                _ROOM,
                ctypes.addressof(self._frame),
                ctypes.addressof(self._out),
                1,
                0,
            )
        )
        self._sent = sent
        length = 16 if six else 4
        source = _ETHERNET + (8 if six else 12)
        self._last_of_source = source + length - 4
        self._port = len(raw) - len(packet[TCP])
        self._to = slice(source + length, source + 2 * length)  # of the outer header, which is the first

    def backends(self, clients: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """The address that each client's packet is sent on to; b"" = it is not.

        Args:
            clients: the last four bytes of an address, as a number, and a port.
        """
        frame, out, attr = self._frame, self._out, self._attr
        at, port_at, to, sent = self._last_of_source, self._port, self._to, self._sent.to_bytes(4, "little")
        start, end, room = _RETVAL_AT, _RETVAL_AT + 4, _SIZE_OUT.pack(_ROOM)
        address, port_of = struct.Struct(">I").pack_into, struct.Struct(">H").pack_into
        for client, port in clients:
            address(frame, at, client)
            port_of(frame, port_at, port)
            attr[_SIZE_OUT_AT : _SIZE_OUT_AT + 4] = room
            result, error = bpf_errno(Cmd.PROG_TEST_RUN, attr)
            if result < 0:
                raise OSError(error, "test run")
            yield out[to] if attr[start:end] == sent else b""

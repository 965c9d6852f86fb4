"""Run under the system's Python: compile BCC C and load it; pass the fds to the parent over stdin's socket.

Imports nothing of kubebee: the system's Python does not have it.
Request: JSON {source, programs: {name: type number}}.
Answers: one datagram per fd, JSON {kind, name, type} with the fd as SCM_RIGHTS, at the end {kind: end}.
"""

import ctypes
import json
import socket
import sys
from pathlib import Path

from bcc import BPF, lib  # type: ignore[import-not-found]

# The binding leaves these undeclared; ctypes would cut their pointers to 32 bits.
lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
lib.bpf_table_name.restype = ctypes.c_char_p


class Unattached(BPF):  # type: ignore[misc]
    """BCC attaches functions called kprobe__x by itself; attaching is the loader's."""

    def _trace_autoload(self) -> None:
        pass


def main() -> None:
    """Answer one request."""
    parent = socket.socket(fileno=0)
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))

    def send(kind: str, name: str, number: int, fd: int) -> None:
        message = json.dumps({"kind": kind, "name": name, "type": number}).encode()
        socket.send_fds(parent, [message], [fd])

    module = Unattached(text=request["source"].encode(), cflags=["-w"])
    for index in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, index)
        kind = lib.bpf_table_type_id(module.module, index)
        send("map", name.decode(), kind, lib.bpf_table_fd(module.module, name))
    for name, number in request["programs"].items():
        send("program", name, number, module.load_func(name.encode(), number).fd)
    parent.send(b'{"kind": "end"}')


main()

"""Programs: what is loaded, its figures, and test runs."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kubebee.bpf.constants import TEST_XDP_LIVE_FRAMES, Cmd, ProgType
from kubebee.bpf.handle import Handle
from kubebee.bpf.syscall import (
    BpfError,
    address,
    bpf_errno,
    c_string,
    next_id,
    obj_info,
)

# struct bpf_prog_info up to attach_btf_id
_INFO = struct.Struct("=II8sIIQQQIIQ16sIIQQIIQQIIQIIQQIIIIQQQQIII4x")
_INFO_REQUEST = struct.Struct("=II8sIIQQQIIQ")  # up to map_ids: the only array asked for
# prog_fd, retval, data_size_in/out, data_in/out, repeat, duration, ctx_size_in/out, ctx_in/out,
# flags, cpu, batch_size
_TEST = struct.Struct("=IIIIQQIIIIQQIII4x")
_BTF_ID_OFFSET = 128
_MAX_MAPS = 128
_OUTPUT_ROOM = 512  # how much a program may grow its packet (XDP headroom is 256)

# These take their input as context only; the kernel refuses data, output buffers and repeat.
_CONTEXT_ONLY = frozenset({ProgType.SYSCALL, ProgType.RAW_TRACEPOINT, ProgType.TRACING})


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """What the kernel says about a program (struct bpf_prog_info).

    `load_time` is in ns since boot; run figures are 0 unless statistics are on.
    """

    id: int
    type: ProgType
    name: str
    tag: str
    run_cnt: int
    run_time_ns: int
    recursion_misses: int
    map_ids: tuple[int, ...]
    btf_id: int
    load_time: int
    created_by_uid: int
    jited_bytes: int
    xlated_bytes: int
    verified_insns: int
    ifindex: int
    attach_btf_obj_id: int
    attach_btf_id: int

    @property
    def jited(self) -> bool:
        """Whether the program runs as machine code."""
        return self.jited_bytes > 0


@dataclass(frozen=True, slots=True)
class TestRun:
    """Outcome of a test run: the packet and context as the program left them."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    retval: int
    duration_ns: int
    data: bytes
    ctx: bytes


class Program(Handle):
    """A loaded program. Owns its file descriptor; use as a context manager or call close()."""

    open_by_id = Cmd.PROG_GET_FD_BY_ID

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._type: ProgType | None = None

    @property
    def info(self) -> ProgInfo:
        """What the kernel says about the program now."""
        return program_info(self._fd)

    def test_run(
        self,
        data: bytes = b"",
        ctx: bytes | None = None,
        repeat: int = 1,
        flags: int = 0,
        batch_size: int = 0,
    ) -> TestRun:
        """Run the program on a packet (BPF_PROG_TEST_RUN).

        Args:
            data: the packet, at least 14 bytes for XDP and TC; empty for types that take none.
            ctx: the context structure, as the kernel defines it for the type.
            repeat: how often; the duration is the average of one run.
            flags: BPF_F_TEST_*; with live frames there is no output.
            batch_size: frames per batch of a live-frames run, 0 for the kernel's default.

        Returns:
            The return value of the last run, mean ns of a run, packet and context afterwards.
        """
        if self._type is None:
            self._type = self.info.type
        context_only = self._type in _CONTEXT_ONLY
        no_output = context_only or bool(flags & TEST_XDP_LIVE_FRAMES)
        out = ctypes.create_string_buffer(0 if no_output or not data else len(data) + _OUTPUT_ROOM)
        ctx_in = ctypes.create_string_buffer(ctx or b"", len(ctx or b""))
        ctx_out = ctypes.create_string_buffer(0 if no_output else len(ctx_in))
        attr = bytearray(
            _TEST.pack(
                self._fd,
                0,
                len(data),
                len(out),
                address(data) if data else 0,
                ctypes.addressof(out) if len(out) else 0,
                0 if context_only else repeat,
                0,
                len(ctx_in),
                len(ctx_out),
                ctypes.addressof(ctx_in) if len(ctx_in) else 0,
                ctypes.addressof(ctx_out) if len(ctx_out) else 0,
                flags,
                0,
                batch_size,
            )
        )
        result, err = bpf_errno(Cmd.PROG_TEST_RUN, attr)
        # ENOSPC only says that the packet outgrew the buffer; everything else is filled in.
        if result < 0 and err != errno.ENOSPC:
            raise BpfError("cannot test-run", err, where=f"program {self.info.name}")
        _, retval, _, size_out, _, _, _, duration, _, ctx_size, *_ = _TEST.unpack(attr)
        return TestRun(
            retval=retval,
            duration_ns=duration,
            data=out.raw[:size_out],
            ctx=ctx_in.raw if context_only else ctx_out.raw[:ctx_size],
        )


def program_info(fd: int) -> ProgInfo:
    """Read the info of an open program."""
    ids = (ctypes.c_uint32 * _MAX_MAPS)()
    request = _INFO_REQUEST.pack(0, 0, b"", 0, 0, 0, 0, 0, 0, _MAX_MAPS, ctypes.addressof(ids))
    raw = obj_info(fd, _INFO.size, request)
    (
        type_number,
        prog_id,
        tag,
        jited_len,
        xlated_len,
        _,
        _,
        load_time,
        uid,
        map_count,
        _,
        name,
        ifindex,
        *_,
        run_time,
        run_cnt,
        misses,
        verified,
        attach_btf_obj,
        attach_btf,
    ) = _INFO.unpack(raw)
    return ProgInfo(
        id=prog_id,
        type=ProgType(type_number),
        name=c_string(name),
        tag=tag.hex(),
        run_cnt=run_cnt,
        run_time_ns=run_time,
        recursion_misses=misses,
        map_ids=tuple(ids[: min(map_count, _MAX_MAPS)]),
        btf_id=struct.unpack_from("=I", raw, _BTF_ID_OFFSET)[0],
        load_time=load_time,
        created_by_uid=uid,
        jited_bytes=jited_len,
        xlated_bytes=xlated_len,
        verified_insns=verified,
        ifindex=ifindex,
        attach_btf_obj_id=attach_btf_obj,
        attach_btf_id=attach_btf,
    )


def program_ids() -> Iterator[int]:
    """Yield the ids of all programs on the machine."""
    current: int | None = 0
    while (current := next_id(Cmd.PROG_GET_NEXT_ID, current or 0)) is not None:
        yield current

"""BCC dialect, compiled by the real python3-bpfcc."""

import os
from pathlib import Path

import pytest

from kubebee.errors import UnsupportedError
from kubebee.toolchain import bcc
from kubebee.toolchain.errors import CompileError

XDP = 6
SOURCE = """BPF_HASH(counts, u32, u64);
int count(struct xdp_md *ctx) { u32 key = 0; counts.increment(key); return XDP_PASS; }
"""


@pytest.fixture(autouse=True)
def _needs_bcc() -> None:
    if not Path("/usr/lib/python3/dist-packages/bcc").is_dir():
        pytest.skip("python3-bpfcc is not installed")
    try:
        bcc.find_headers()
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_programs_and_maps_come_back_as_fds() -> None:
    result = bcc.load(SOURCE, {"count": XDP})
    try:
        assert set(result.programs) == {"count"}
        assert set(result.maps) == {"counts"}
        for fd in (*result.programs.values(), *result.maps.values()):
            assert "bpf" in str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        for fd in (*result.programs.values(), *result.maps.values()):
            os.close(fd)


def test_an_error_names_the_users_line() -> None:
    with pytest.raises(CompileError) as caught:
        bcc.load("int a;\nint f(void *ctx) { return nothing; }\n", {"f": XDP}, "mine.c")
    assert caught.value.where.startswith("mine.c:2:")

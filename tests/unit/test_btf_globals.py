"""Globals are typed through the object's own BTF: what fits, what does not, and how errors read."""

from __future__ import annotations

import functools
import shutil
import subprocess

import pytest

from kubebee.bpf.btf import Btf, BtfError
from kubebee.bpf.btf_codec import Value, ValueMismatchError
from kubebee.bpf.elf import ElfError, parse_elf
from kubebee.bpf.globals import Globals, GlobalsError, read_globals

SOURCE = """
#include <linux/bpf.h>
#include <linux/types.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>

enum mode { MODE_OFF, MODE_ON = 5, MODE_NEGATIVE = -1 };
enum wide { WIDE = 1ULL << 40 };
struct part { __u16 low : 4; __u16 high : 12; };
struct rule {
	__be32 address;
	__be16 port;
	char name[8];
	union { __u32 number; __u8 bytes[4]; };
	struct part part;
	__s8 weight;
	__u16 tail;
};

const volatile __u8 limit = 7;
const volatile __u32 ports[4] = {80};
const volatile _Bool enabled;
const volatile enum mode mode;
volatile enum wide wide = WIDE;
volatile char label[6] = "abc";
volatile __be32 vip;
volatile __be16 port;
volatile struct in_addr v4;
volatile struct in6_addr v6;
volatile __u8 mac[6] = {1};
volatile __u8 v6_bytes[16];
volatile __s64 count = -3;
volatile double ratio;
volatile struct rule rule = {.tail = 9};
volatile int custom SEC(".data.custom") = 4;
void *volatile pointer;
static volatile int hidden = 1;
int use(void) { return hidden; }
char LICENSE[] SEC("license") = "GPL";
"""


@functools.cache
def compiled() -> bytes:
    compiler = shutil.which("clang-19") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs clang")
    includes = ["-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu"]
    command = [compiler, "-target", "bpf", "-O2", "-g", *includes, "-x", "c", "-c", "-", "-o", "/dev/stdout"]
    return subprocess.run(command, input=SOURCE.encode(), capture_output=True, check=True, timeout=30).stdout


@pytest.fixture(scope="module")
def variables() -> Globals:
    return read_globals(compiled())


def stored(variables: Globals, name: str, value: Value) -> bytes:
    """The bytes that the variable has after it was set."""
    place = variables.variable(name)
    (content,) = variables.patch({name: value}).values()
    return content[place.offset : place.offset + place.size]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("limit", 255, "ff"),
        ("limit", "0x10", "10"),
        ("ports", [80, 443], "50000000 bb010000 00000000 00000000"),
        ("enabled", True, "01"),
        ("mode", "MODE_ON", "05000000"),
        ("mode", -1, "ffffffff"),
        ("wide", "WIDE", "0000000000010000"),
        ("label", "hello", "68656c6c6f00"),
        ("vip", "10.0.0.1", "0a000001"),
        ("vip", 0x0A000001, "0a000001"),
        ("port", 8080, "1f90"),
        ("v4", "192.0.2.1", "c0000201"),
        ("v6", "2001:db8::1", "20010db8000000000000000000000001"),
        ("v6_bytes", "2001:db8::1", "20010db8000000000000000000000001"),
        ("mac", "02:00:00:00:00:0a", "02000000000a"),
        ("mac", [1, 2, 3], "010203000000"),
        ("count", -2, "feffffffffffffff"),
        ("ratio", 0.5, "000000000000e03f"),
        ("custom", 6, "06000000"),
    ],
)
def test_values_become_the_bytes_of_their_c_type(
    variables: Globals, name: str, value: Value, expected: str
) -> None:
    assert stored(variables, name, value).hex() == expected.replace(" ", "")


def test_structs_take_members_bitfields_and_members_of_anonymous_unions(variables: Globals) -> None:
    value = {
        "address": "192.0.2.7", "port": 53, "name": "dns", "number": 1,
        "part": {"low": 15, "high": 1}, "weight": -1,
    }  # fmt: skip
    data = stored(variables, "rule", value)
    assert data.hex() == "c00002070035646e7300000000000000010000001f00ff0000000000"
    section = variables.patch({"rule": value})[".data"]
    assert variables.decode("rule", section) == {
        "address": "192.0.2.7", "port": 53, "name": "dns", "number": 1, "bytes": [1, 0, 0, 0],
        "part": {"low": 15, "high": 1}, "weight": -1, "tail": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("limit", 300, "globals.limit: 300 does not fit in const volatile __u8 limit (0 to 255)"),
        ("limit", -1, "globals.limit: -1 does not fit in const volatile __u8 limit (0 to 255)"),
        ("limit", "many", "globals.limit: 'many' is not a number, which const volatile __u8 limit needs"),
        ("ports", [1, 1 << 32], "globals.ports[1]: 4294967296 does not fit in const volatile __u32 ports[1]"),
        ("ports", [0] * 5, "globals.ports: 5 values do not fit in const volatile __u32[4] ports"),
        ("ports", "10.0.0.1", "globals.ports: '10.0.0.1' is not a list"),
        ("enabled", 2, "globals.enabled: 2 is not true or false, which const volatile _Bool enabled needs"),
        ("mode", "MODE_UP", "'MODE_UP' is not in const volatile enum mode mode (one of MODE_OFF, MODE_ON"),
        ("label", "too long", "globals.label: 8 bytes of text and NUL do not fit in volatile char[6] label"),
        ("label", "a\0b", "must not hold NUL"),
        ("vip", "2001:db8::1", "is not an IPv4 address"),
        ("v6", "10.0.0.1", "is not an IPv6 address"),
        ("mac", "10.0.0.1", "is not a MAC address"),
        ("count", "10.0.0.1", "declare an IPv4 address as __be32"),
        ("rule", {"nome": "x"}, "volatile struct rule rule has no member 'nome' (members: address, port"),
        ("rule", {"part": {"low": 16}}, "globals.rule.part.low: 16 does not fit"),
        ("pointer", 1, "pointers cannot be set"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name_and_type(
    variables: Globals, name: str, value: Value, message: str
) -> None:
    with pytest.raises(ValueMismatchError) as failure:
        variables.patch({name: value})
    assert message in str(failure.value)


def test_an_unknown_name_is_refused_with_the_nearest(variables: Globals) -> None:
    with pytest.raises(GlobalsError, match=r"did you mean limit.*variables: count") as failure:
        variables.patch({"limits": 1})
    assert failure.value.where == "globals.limits"


def test_constants_and_live_variables_are_told_apart(variables: Globals) -> None:
    assert variables.variable("limit").const
    assert not variables.variable("count").const
    assert variables.variable("custom").section == ".data.custom"
    assert "hidden" not in variables.variables
    assert "LICENSE" not in variables.variables


def test_unset_variables_keep_what_the_source_says(variables: Globals) -> None:
    content = variables.patch({"enabled": True})[".rodata"]
    assert variables.decode("limit", content) == 7
    assert variables.decode("ports", content) == [80, 0, 0, 0]
    assert variables.decode("count", variables.sections[".data"]) == -3


def test_every_truncation_of_an_object_is_an_error_of_its_own_kind() -> None:
    whole = compiled()
    for end in range(0, len(whole), 97):
        with pytest.raises((ElfError, BtfError, GlobalsError)):
            read_globals(whole[:end])


def test_every_truncation_of_btf_is_corrupt_btf() -> None:
    section = parse_elf(compiled()).section(".BTF")
    assert section is not None
    for end in range(0, len(section.data), 13):
        with pytest.raises(BtfError) as failure:
            Btf(section.data[:end])
        assert failure.value.reason == "CorruptBTF"


def test_objects_for_other_machines_are_named() -> None:
    whole = bytearray(compiled())
    whole[18:20] = (62).to_bytes(2, "little")
    with pytest.raises(ElfError, match="x86-64") as failure:
        parse_elf(bytes(whole))
    assert failure.value.reason == "WrongMachine"
    whole[5] = 2
    with pytest.raises(ElfError, match="big-endian"):
        parse_elf(bytes(whole))

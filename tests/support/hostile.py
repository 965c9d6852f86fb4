"""Sources and objects that a user may have by mistake, or by malice."""

from __future__ import annotations

import struct
from collections.abc import Callable

# 2^60 files, each of which takes a few microseconds and no memory.
SLOW = "#if __INCLUDE_LEVEL__ < 60\n#include __FILE__\n#include __FILE__\n#endif\n"
# 10^12 tokens.
GREEDY = "#define A0 x\n" + "".join(f"#define A{i + 1} {f'A{i} ' * 10}\n" for i in range(12)) + "A12\n"
E_MACHINE = 18  # offset in the ELF header
EM_AARCH64 = 183
SECTION_HEADER = "<IIQQQQIIQQ"


def cut_in_half(elf: bytes) -> bytes:
    return elf[: len(elf) // 2]


def made_of_noise(elf: bytes) -> bytes:
    return elf[:64] + bytes(range(256)) * 8


def for_arm(elf: bytes) -> bytes:
    return elf[:E_MACHINE] + struct.pack("<H", EM_AARCH64) + elf[E_MACHINE + 2 :]


def with_half_its_btf(elf: bytes) -> bytes:
    """The section header of .BTF says half of its size."""
    offset, size, count, names = (*struct.unpack_from("<Q10xHHH", elf, 0x28),)
    headers = [struct.unpack_from(SECTION_HEADER, elf, offset + i * size) for i in range(count)]
    strings = headers[names][4]
    for index, header in enumerate(headers):
        if elf[strings + header[0] :].startswith(b".BTF\0"):
            changed = list(header)
            changed[5] //= 2
            place = offset + index * size
            return elf[:place] + struct.pack(SECTION_HEADER, *changed) + elf[place + size :]
    raise AssertionError("no .BTF")


Spoil = Callable[[bytes], bytes]
DAMAGED: list[tuple[Spoil, str, str]] = [
    (cut_in_half, "CorruptObject", "of a file of"),
    (made_of_noise, "CorruptObject", "of a file of 2112"),
    (for_arm, "WrongMachine", "for AArch64, not BPF"),
    (with_half_its_btf, "CorruptBTF", "BTF is cut off"),
]
"""What is done to an object, the reason that it is refused for, and words of the message."""

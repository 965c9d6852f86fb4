"""What the loader must know of a compiled object without opening it again.

They are derived once from the ELF file and kept beside it in the compile cache, so that adopting what an
earlier process loaded needs neither a compiler nor libbpf.
"""

from __future__ import annotations

import hashlib

import msgspec

from kubebee.bpf.constants import MapType
from kubebee.bpf.globals import read_globals
from kubebee.bpf.object import BpfObject

FACTS_VERSION = 1


class MapSchema(msgspec.Struct, frozen=True):
    """What makes two maps interchangeable.

    Attributes:
        layout: hash of the C types of key and value, or of the variables of a data section.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    internal: bool
    constant: bool

    @property
    def schema(self) -> str:
        """Hex hash for the pin's name."""
        text = f"{self.type}/{self.key_size}/{self.value_size}/{self.max_entries}/{self.flags}"
        return hashlib.sha256(text.encode()).hexdigest()


class ObjectFacts(msgspec.Struct, frozen=True):
    """Functions with their sections, maps, and which global variables are constants."""

    version: int
    functions: dict[str, str]
    maps: tuple[MapSchema, ...]
    constants: tuple[str, ...]


def read_facts(elf: bytes) -> ObjectFacts:
    """Read an object's facts.

    Raises:
        BpfError: libbpf can't open it.
        KubebeeError: the BTF of its data sections can't be read.
    """
    variables = read_globals(elf)
    with BpfObject.open(elf) as opened:
        maps = tuple(
            MapSchema(
                name=m.name,
                type=int(m.type),
                key_size=m.key_size,
                value_size=m.value_size,
                max_entries=m.max_entries,
                flags=int(m.map_flags),
                internal=m.name.startswith("."),
                constant=m.name.startswith(".rodata"),
            )
            for m in opened.maps.values()
            if m.type != MapType.STRUCT_OPS
        )
        functions = {p.name: p.section for p in opened.programs.values()}
    constants = tuple(sorted(name for name, variable in variables.variables.items() if variable.const))
    return ObjectFacts(FACTS_VERSION, functions, maps, constants)

"""What the loader must know of a compiled object without opening it again.

They are derived once from the ELF file and kept beside it in the compile cache, so that adopting what an
earlier process loaded needs neither a compiler nor libbpf.
"""

from __future__ import annotations

import hashlib

import msgspec

from kubebee.bpf.btf_layout import layout_of, section_layout
from kubebee.bpf.globals import Globals, read_globals
from kubebee.bpf.object import BpfObject, ObjectMap

FACTS_VERSION = 2


class MapSchema(msgspec.Struct, frozen=True):
    """What makes two maps interchangeable.

    Attributes:
        layout: of the C types of key and value; of a data section, its variables and their first values.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    internal: bool
    constant: bool
    layout: str

    @property
    def schema(self) -> str:
        """Hex hash for the pin's name."""
        text = f"{self.type}/{self.key_size}/{self.value_size}/{self.max_entries}/{self.flags}/{self.layout}"
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
                layout=_layout(m, variables),
            )
            for m in opened.maps.values()
        )
        functions = {p.name: p.section for p in opened.programs.values()}
    constants = tuple(sorted(name for name, variable in variables.variables.items() if variable.const))
    return ObjectFacts(FACTS_VERSION, functions, maps, constants)


def _layout(declared: ObjectMap, variables: Globals) -> str:
    if declared.internal:
        # New first values of variables are an edit that must be seen; zeroes of .bss never are one.
        first = variables.sections.get(declared.name, b"") if declared.name.startswith(".data") else b""
        return f"{section_layout(variables.btf, declared.name)};{hashlib.sha256(first).hexdigest()}"
    key, value = declared.btf_key_type_id, declared.btf_value_type_id
    return f"{layout_of(variables.btf, key)}->{layout_of(variables.btf, value)}"

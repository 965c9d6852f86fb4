"""A program's global variables: values by name -> the bytes of the data sections that hold them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_codec import Decoded, Value, decode, encode
from kubebee.bpf.btf_names import c_name
from kubebee.bpf.btf_types import Datasec, Kind, Linkage, Var
from kubebee.bpf.elf import STT_OBJECT, Elf, parse_elf
from kubebee.errors import KubebeeError

_DATA = (".data", ".bss", ".rodata")


class GlobalsError(KubebeeError):
    """A variable that the object does not have, or an object without BTF."""

    reason = "InvalidGlobal"


@dataclass(frozen=True)
class Global:
    """A variable: the section whose map holds it, place and size in bytes, type in the object's BTF.

    ``const`` ones are in .rodata, frozen when loaded: a new value needs a new load. Others change in the map.
    """

    name: str
    section: str
    offset: int
    size: int
    type_id: int
    c_type: str

    @property
    def const(self) -> bool:
        """Whether the variable can only be set before loading."""
        return self.section.startswith(".rodata")


@dataclass(frozen=True)
class Globals:
    """The exported variables of an object and the first contents of its data sections."""

    btf: Btf
    variables: Mapping[str, Global]
    sections: Mapping[str, bytes]

    def patch(self, values: Mapping[str, Value]) -> dict[str, bytes]:
        """The sections that the values touch, whole, with the values in place.

        Raises:
            GlobalsError: there is no such variable.
            ValueMismatchError: a value does not fit its type; ``where`` is ``globals.<name>...``.
        """
        changed: dict[str, bytearray] = {}
        for name, value in values.items():
            variable = self.variable(name)
            data = encode(self.btf, variable.type_id, value, f"globals.{name}")
            content = changed.setdefault(variable.section, bytearray(self.sections[variable.section]))
            content[variable.offset : variable.offset + variable.size] = data
        return {section: bytes(content) for section, content in changed.items()}

    def variable(self, name: str) -> Global:
        """The variable of this name."""
        found = self.variables.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self.variables, n=1)
            names = ", ".join(sorted(self.variables)) or "none"
            raise GlobalsError(
                f"the program has no global variable {name}",
                where=f"globals.{name}",
                hint=f"{f'did you mean {near[0]}? ' if near else ''}variables: {names}",
            )
        return found

    def decode(self, name: str, section: bytes) -> Decoded:
        """The value of a variable in a section's contents."""
        variable = self.variable(name)
        return decode(self.btf, variable.type_id, section[variable.offset : variable.offset + variable.size])


def read_globals(elf: bytes) -> Globals:
    """The global variables of an object: those that C exports, so not static ones."""
    model = parse_elf(elf)
    section = model.section(".BTF")
    if section is None:
        raise GlobalsError("the object has no BTF, which types its variables", hint="compile with -g")
    btf = Btf(section.data)
    variables, contents = {}, {}
    for type_id in btf.each(Kind.DATASEC):
        datasec = btf.expect(type_id, Datasec)
        found = model.section(datasec.name)
        if found is None or not datasec.name.startswith(_DATA):
            continue
        contents[datasec.name] = found.data or bytes(found.size)
        variables.update(_variables(btf, model, datasec, found.size))
    return Globals(btf, variables, contents)


def _variables(btf: Btf, elf: Elf, datasec: Datasec, limit: int) -> dict[str, Global]:
    # clang leaves offsets in BTF to the linker: the symbol table has them for certain.
    index = elf.index(datasec.name)
    offsets = {s.name: s.value for s in elf.symbols if s.section == index and s.type == STT_OBJECT}
    variables = {}
    for placed in datasec.variables:
        var = btf.expect(placed.type, Var)
        offset, size = offsets.get(var.name, placed.offset), btf.size(var.type)
        if var.linkage != Linkage.GLOBAL:
            continue
        if offset + size > limit:
            raise GlobalsError(f"variable {var.name} ends behind section {datasec.name} of {limit} bytes")
        name = c_name(btf, var.type)
        variables[var.name] = Global(var.name, datasec.name, offset, size, var.type, name)
    return variables

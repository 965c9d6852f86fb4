"""A unit in the kernel: its maps and programs, pinned; attached by others.

Loading touches nothing that is attached. What an earlier process pinned under the same load hash is adopted
as it is; maps whose schema is unchanged are reused by a new version of the code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from kubebee.bpf.constants import MapType
from kubebee.bpf.features import require, require_for_program
from kubebee.bpf.globals import read_globals
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.errors import KubebeeError
from kubebee.loader import bcc, chain_object, filter_object
from kubebee.loader.carry_over import carry_over
from kubebee.loader.chain import new_run_map
from kubebee.loader.compiled import Compiled, load_hash
from kubebee.loader.counted import RUN_MAP
from kubebee.loader.drivers import driver_for
from kubebee.loader.facts import MapSchema
from kubebee.loader.pins import PinRoot, unit_directory
from kubebee.loader.unit import Unit, owner_of
from kubebee.planner.plan import FunctionPlan, ResourceKey, Toolchain

_RUN_SCHEMA = "run1"


class ObjectMismatchError(KubebeeError):
    """The object doesn't hold what its resource says."""

    reason = "ObjectMismatch"


@dataclass
class Loaded:
    """One version of a unit.

    Attributes:
        maps: by the names of the source; the second object's data sections carry its index.
        programs: functions that are not XDP, and all that BCC made, by name.
        run_maps: counters of the XDP functions, by name.
        struct_ops: object with struct_ops maps not registered yet, open until they are.
        objects: what functions of tc were loaded from, by name, see loader.filter_object.
        notes: what a user should know, such as a map that was recreated.
    """

    unit: Unit
    load_hash: str
    compiled: tuple[Compiled, ...]
    maps: dict[str, Map] = field(default_factory=dict)
    map_pins: set[Path] = field(default_factory=set)
    programs: dict[str, Program] = field(default_factory=dict)
    program_pins: set[Path] = field(default_factory=set)
    run_maps: dict[str, Map] = field(default_factory=dict)
    struct_ops: list[BpfObject] = field(default_factory=list)
    objects: dict[str, Map] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sizes: Mapping[str, int] = field(default_factory=dict)
    adopted: bool = False
    seconds: float = 0.0

    def elf_of(self, function: str) -> bytes:
        """The object that `function` is in."""
        for item in self.compiled:
            if any(plan.name == function for plan in item.code.functions):
                return item.elf
        raise KeyError(function)

    def close(self) -> None:
        """Close descriptors; pins stay."""
        for bpf_map in (*self.maps.values(), *self.run_maps.values(), *self.objects.values()):
            bpf_map.close()
        for program in self.programs.values():
            program.close()
        for opened in self.struct_ops:
            opened.close()

    def rename(self, new: ResourceKey) -> None:
        """Be known by another name; pins are renamed already."""
        old, folder = unit_directory(self.unit.key), unit_directory(new)

        def renamed(paths: set[Path]) -> set[Path]:
            return {
                path.parent.with_name(folder) / path.name if path.parent.name == old else path
                for path in paths
            }

        self.map_pins, self.program_pins = renamed(self.map_pins), renamed(self.program_pins)
        self.unit = replace(self.unit, key=new)

    def repin(self, pins: PinRoot) -> None:
        """Pin everything again where pins are gone."""
        planned = {name: path for name, (_, path) in _pins_of_maps(self, pins).items()}
        for name, bpf_map in self.maps.items():
            _pin_if_gone(bpf_map, planned.get(name) or pins.map(self.unit.key, name, self.load_hash))
        for function, bpf_map in self.run_maps.items():
            _pin_if_gone(bpf_map, pins.map(self.unit.key, f"{RUN_MAP}-{function}", _RUN_SCHEMA))
        for function, kept in self.objects.items():
            _pin_if_gone(kept, pins.filter_object(self.unit.key, function, self.load_hash))
        for name, program in self.programs.items():
            _pin_if_gone(program, pins.program(self.unit.key, name, self.load_hash))


def sizes_of(unit: Unit, pins: PinRoot) -> dict[str, int]:
    """Sizes for the maps that the unit asks to be sized: a map that exists stays if it is large enough."""
    sizes = dict(unit.map_sizes)
    if not sizes:
        return sizes
    for name, wanted in unit.map_sizes.items():
        for path in pins.maps_of(owner_of(name, unit)).get(name, []):
            with Map.from_pin(path) as existing:
                size = existing.info.max_entries
            if size >= (wanted if name in unit.fixed_sizes else wanted // 2):
                sizes[name] = size
    return sizes


_NEEDS = {
    "Tracepoint": ("perf_link",),
    "Kprobe": ("kprobe", "perf_link"),
    "Kretprobe": ("kprobe", "perf_link"),
    "Uprobe": ("uprobe", "perf_link"),
    "Uretprobe": ("uprobe", "perf_link"),
}
"""What attaching needs: kernels without it would load the program, and then have no place for it."""


def load_unit(
    unit: Unit, compiled: tuple[Compiled, ...], load_hash: str, sizes: Mapping[str, int], pins: PinRoot
) -> Loaded:
    """Adopt or load a unit, and pin it.

    Raises:
        UnsupportedError: the kernel lacks what one of the functions needs; nothing is loaded.
        LoadError: the verifier or libbpf refuses it.
        ObjectMismatchError: a function is missing, or its section does not fit the attach type.
        KubebeeError: a global variable can't take its value.
    """
    start = time.perf_counter()
    for name in (name for function in unit.functions for name in _NEEDS.get(function.attach.type, ())):
        require(name)
    for item in compiled:
        _check_functions(item)
    loaded = Loaded(unit, load_hash, compiled, sizes=sizes)
    try:
        if any(_is_bcc(item) for item in compiled):
            _take_bcc(loaded, pins)
        elif not _adopt(loaded, pins):
            _load(loaded, pins)
        for function in unit.functions:
            if function.attach.type == "XDP" and function.name not in loaded.run_maps:
                loaded.run_maps[function.name] = _run_map(loaded, function.name, pins)
        _keep_objects(loaded, pins)
    except BaseException:
        loaded.close()
        raise
    loaded.seconds = time.perf_counter() - start
    return loaded


def _check_functions(item: Compiled) -> None:
    if not item.elf:
        return
    struct_ops = {m.name for m in item.facts.maps if m.type == MapType.STRUCT_OPS}
    for plan in item.code.functions:
        known = struct_ops if plan.attach.type == "StructOps" else set(item.facts.functions)
        if plan.name not in known:
            what = "struct_ops map" if plan.attach.type == "StructOps" else "function"
            raise ObjectMismatchError(
                f"the object has no {what} {plan.name!r}",
                reason="FunctionNotFound",
                where=item.code.bundle.filename,
                hint=f"it has {', '.join(sorted(known)) or 'none'}",
            )


def _pins_of_maps(loaded: Loaded, pins: PinRoot) -> dict[str, tuple[MapSchema, Path]]:
    found: dict[str, tuple[MapSchema, Path]] = {}
    for index, item in enumerate(loaded.compiled):
        for declared in item.facts.maps:
            schema = declared
            if schema.type == MapType.STRUCT_OPS:
                continue
            name = local_name(schema.name, index)
            if schema.name in loaded.sizes:
                schema = msgspec.structs.replace(schema, max_entries=loaded.sizes[schema.name])
            version = loaded.load_hash if schema.constant else schema.schema
            found.setdefault(name, (schema, pins.map(owner_of(schema.name, loaded.unit), name, version)))
    return found


def local_name(map_name: str, index: int) -> str:
    """Name of a map within its unit: data sections of further objects are maps of their own."""
    return f"{map_name}.{index}" if index and map_name.startswith(".") else map_name


def _adopt(loaded: Loaded, pins: PinRoot) -> bool:
    """Take over what is pinned under this load hash; False if anything of it is missing."""
    unit = loaded.unit
    maps = _pins_of_maps(loaded, pins)
    digest = loaded.load_hash
    wanted = {f.name: pins.program(unit.key, f.name, digest) for f in unit.functions if _is_program(f)}
    operations = {f.name for f in unit.functions if f.attach.type == "StructOps"}
    if operations:
        links = {link.function for link in pins.links_of(unit.key) if digest.startswith(link.load_hash)}
        if not operations <= links:
            return False
    if not all(path.exists() for path in (*wanted.values(), *(path for _, path in maps.values()))):
        return False
    loaded.maps = {name: Map.from_pin(path) for name, (_, path) in maps.items()}
    loaded.map_pins = {path for _, path in maps.values()}
    loaded.programs = {name: Program.from_pin(path) for name, path in wanted.items()}
    loaded.program_pins = set(wanted.values())
    loaded.adopted = True
    return True


def _is_bcc(item: Compiled) -> bool:
    return item.code.bundle.toolchain is Toolchain.BCC


def adoptable(key: ResourceKey, item: Compiled, pins: PinRoot) -> bool:
    """Whether what BCC would make of this source is pinned, so that BCC need not run."""
    kept = bcc.adopt(key, [plan.name for plan in item.code.functions], load_hash((item,), {}), pins)
    if kept is not None:
        bcc.release(kept)
    return kept is not None


def _take_bcc(loaded: Loaded, pins: PinRoot) -> None:
    """Adopt or pin what BCC made: its functions, XDP ones too, and its maps."""
    (item,) = loaded.compiled
    key, digest = loaded.unit.key, loaded.load_hash
    kept = bcc.adopt(key, [plan.name for plan in item.code.functions], digest, pins)
    loaded.adopted = kept is not None
    if kept is None:
        if item.made is None:
            raise KubebeeError("its pins were removed at this moment", reason="NotConfirmed", where=str(key))
        kept = bcc.keep(key, item.made, digest, pins)
    loaded.programs, loaded.maps = kept.programs, kept.maps
    loaded.map_pins = {pins.map(key, name, digest) for name in kept.maps}
    loaded.program_pins = {pins.program(key, name, digest) for name in kept.programs}
    loaded.notes += kept.notes


def _is_program(function: FunctionPlan) -> bool:
    return function.attach.type not in ("XDP", "StructOps")


def _load(loaded: Loaded, pins: PinRoot) -> None:
    planned = _pins_of_maps(loaded, pins)
    for index, item in enumerate(loaded.compiled):
        opened = BpfObject.open(item.elf, name="kubebee")
        try:
            _configure_programs(opened, item)
            _set_globals(opened, item)
            fresh = _reuse_maps(opened, index, planned, loaded)
            opened.load()
            _keep_maps(opened, index, fresh, planned, loaded, pins)
            _keep_programs(opened, item, loaded, pins)
        except BaseException:
            opened.close()
            raise
        if any(plan.attach.type == "StructOps" for plan in item.code.functions):
            loaded.struct_ops.append(opened)
        else:
            opened.close()


def _configure_programs(opened: BpfObject, item: Compiled) -> None:
    plans: dict[str, FunctionPlan] = {}
    for plan in item.code.functions:
        plans.setdefault(plan.name, plan)
    struct_ops = any(plan.attach.type == "StructOps" for plan in item.code.functions)
    if struct_ops:
        require("struct_ops")  # a kernel without their links refuses the map with a bare EINVAL
    for program in opened.programs.values():
        function = plans.get(program.name)
        if function is None or function.attach.type == "XDP":
            program.set_autoload(struct_ops and program.section.startswith("struct_ops"))
            if function is not None:
                _check_section(program.name, program.section, program.prog_type.name, "XDP", item, function)
            continue
        load_as = driver_for(function.attach).load_as(function.attach)
        require_for_program(load_as.type, load_as.expected or program.expected_attach_type)
        _check_section(
            program.name, program.section, program.prog_type.name, load_as.type.name, item, function
        )
        program.set_type(load_as.type)
        if load_as.expected is not None:
            program.set_expected_attach_type(load_as.expected)
        if load_as.target:
            program.set_attach_target(load_as.target)


def _check_section(name: str, section: str, has: str, wants: str, item: Compiled, plan: FunctionPlan) -> None:
    if has not in (wants, "UNSPEC"):
        raise ObjectMismatchError(
            f"function {name!r} is in section {section!r}, a program of type {has}; "
            f"attach type {plan.attach.type} needs {wants}",
            reason="AttachTypeMismatch",
            where=item.code.bundle.filename,
            hint="change SEC(...) or the attach type",
        )


def _set_globals(opened: BpfObject, item: Compiled) -> None:
    if item.code.globals:
        for section, data in read_globals(item.elf).patch(item.code.globals).items():
            opened.maps[section].initial_value = data


def _reuse_maps(
    opened: BpfObject, index: int, planned: Mapping[str, tuple[MapSchema, Path]], loaded: Loaded
) -> list[str]:
    """Give the object the maps that are there already; returns the names of those to be created."""
    fresh = []
    for name, declared in opened.maps.items():
        local = local_name(name, index)
        if local not in planned:
            continue
        path = planned[local][1]
        if local not in loaded.maps and path.exists():
            loaded.maps[local] = Map.from_pin(path)
            loaded.map_pins.add(path)
        if local in loaded.maps:
            declared.reuse_fd(loaded.maps[local].fd)
        else:
            if name in loaded.sizes:
                declared.set_max_entries(loaded.sizes[name])
            fresh.append(name)
    return fresh


def _keep_maps(
    opened: BpfObject,
    index: int,
    fresh: list[str],
    planned: Mapping[str, tuple[MapSchema, Path]],
    loaded: Loaded,
    pins: PinRoot,
) -> None:
    for name in fresh:
        local = local_name(name, index)
        before = pins.maps_of(owner_of(name, loaded.unit))
        schema, path = planned[local]
        created = opened.maps[name].duplicate()
        if not schema.constant:
            loaded.notes += filter(None, [carry_over(created, before.get(local, []), local)])
        path.parent.mkdir(mode=0o700, exist_ok=True)
        created.pin(path)
        loaded.maps[local] = created
        loaded.map_pins.add(path)


def _keep_programs(opened: BpfObject, item: Compiled, loaded: Loaded, pins: PinRoot) -> None:
    for plan in item.code.functions:
        if not _is_program(plan) or plan.name in loaded.programs:
            continue
        program = opened.programs[plan.name].duplicate()
        loaded.programs[plan.name] = program
        path = pins.program(loaded.unit.key, plan.name, loaded.load_hash)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            path.unlink()
        program.pin(path)
        loaded.program_pins.add(path)


def _keep_objects(loaded: Loaded, pins: PinRoot) -> None:
    key = loaded.unit.key
    for index, item in enumerate(loaded.compiled):
        local = {declared.name: local_name(declared.name, index) for declared in item.facts.maps}
        for function in filter_object.functions_of(item.code):
            path = pins.filter_object(key, function, loaded.load_hash)
            loaded.map_pins.add(path)
            if loaded.adopted and path.exists():
                loaded.objects[function] = Map.from_pin(path)
                continue
            maps = {name: loaded.maps[own] for name, own in local.items() if own in loaded.maps}
            kept = chain_object.keep(filter_object.made_from(key, function, item.elf, maps))
            loaded.objects[function] = kept
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)  # of maps that are gone
            kept.pin(path)


def _pin_if_gone(held: Map | Program, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held.pin(path)


def _run_map(loaded: Loaded, function: str, pins: PinRoot) -> Map:
    path = pins.map(loaded.unit.key, f"{RUN_MAP}-{function}", _RUN_SCHEMA)
    loaded.map_pins.add(path)
    if path.exists():
        return Map.from_pin(path)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    created = new_run_map()
    created.pin(path)
    return created

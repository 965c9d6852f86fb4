"""BPF objects: an ELF file on its way into the kernel, through libbpf.

open() parses, the caller adjusts maps and programs, load() creates what is missing and verifies.
Pin paths that the source declares are ignored: where things are pinned is not the source's to say.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator
from typing import Self

from kubebee.bpf.constants import AttachType, Cmd, MapType, ProgType
from kubebee.bpf.libbpf import OpenOpts, captured_messages, library
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program
from kubebee.bpf.syscall import BpfError, bpf_errno

LOG_LIMIT = 64 * 1024
"""Bytes of a load's log that are kept, from its end: there the verifier says why."""

_FAILED_PROGRAM = re.compile(r"prog '([^']+)'")
_VERIFIER_LOG = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)
_PROCESSED = re.compile(r"^(processed \d+ insns|verification time|stack depth)")


class LoadError(BpfError):
    """libbpf or the verifier refused an object.

    Attributes:
        log: the verifier's log if there is one, else libbpf's messages; at most LOG_LIMIT from the end.
        program: the name of the program that failed, "" if it was something else.
    """

    def __init__(self, message: str, err: int, *, log: str = "", program: str = "", where: str = "") -> None:
        super().__init__(message, err, where=where)
        self.log = log[-LOG_LIMIT:]
        self.program = program


class ObjectMap:
    """A map declared in an object. Sizes in bytes; `fd` is -1 before load()."""

    def __init__(self, handle: int, owner: BpfObject) -> None:
        self._handle = handle
        self._owner = owner
        self._lib = library()

    @property
    def name(self) -> str:
        """The name as in the source: a variable's, or a section's such as ".rodata"."""
        name: str = self._lib.bpf_map__name(self._live()).decode()
        if self.internal and not name.startswith("."):
            # libbpf puts the object's name before the standard sections'
            return name[name.rindex(".") :]
        return name

    @property
    def internal(self) -> bool:
        """Whether libbpf made the map from a data section."""
        return bool(self._lib.bpf_map__is_internal(self._live()))

    @property
    def type(self) -> MapType:
        """The map type."""
        return MapType(self._lib.bpf_map__type(self._live()))

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return int(self._lib.bpf_map__key_size(self._live()))

    @property
    def value_size(self) -> int:
        """Bytes of a value, of one CPU's for per-CPU maps."""
        return int(self._lib.bpf_map__value_size(self._live()))

    @property
    def max_entries(self) -> int:
        """How many entries the map has room for."""
        return int(self._lib.bpf_map__max_entries(self._live()))

    @property
    def map_flags(self) -> int:
        """Creation flags (MapFlag)."""
        return int(self._lib.bpf_map__map_flags(self._live()))

    @property
    def btf_key_type_id(self) -> int:
        """Type of the key in the object's BTF, 0 if unknown."""
        return int(self._lib.bpf_map__btf_key_type_id(self._live()))

    @property
    def btf_value_type_id(self) -> int:
        """Type of the value in the object's BTF, 0 if unknown."""
        return int(self._lib.bpf_map__btf_value_type_id(self._live()))

    @property
    def fd(self) -> int:
        """The file descriptor, which the object owns."""
        return int(self._lib.bpf_map__fd(self._live()))

    def reuse_fd(self, fd: int) -> None:
        """Use an existing map instead of creating one. The descriptor is duplicated.

        libbpf takes the map's own sizes and does not compare them with the declaration: the caller does.
        """
        _check(self._lib.bpf_map__reuse_fd(self._live(), fd), f"cannot reuse a map for {self.name}")

    def set_max_entries(self, count: int) -> None:
        """Set the size of the map to be created."""
        _check(self._lib.bpf_map__set_max_entries(self._live(), count), f"cannot size map {self.name}")

    def set_autocreate(self, create: bool) -> None:
        """Say whether load() creates the map; programs that use a map left out are refused."""
        _check(self._lib.bpf_map__set_autocreate(self._live(), create), f"cannot skip map {self.name}")

    @property
    def initial_value(self) -> bytes:
        """The contents that load() will give a data section's map; b"" for other maps."""
        size = ctypes.c_size_t()
        start = self._lib.bpf_map__initial_value(self._live(), ctypes.byref(size))
        return ctypes.string_at(start, size.value) if start else b""

    @initial_value.setter
    def initial_value(self, value: bytes) -> None:
        status = self._lib.bpf_map__set_initial_value(self._live(), value, len(value))
        _check(status, f"cannot set the {len(value)} bytes of {self.name}")

    def duplicate(self) -> Map:
        """Return the loaded map with a descriptor of its own, which outlives the object."""
        return Map(_duplicate(self.fd, f"map {self.name}"))

    def attach_struct_ops(self) -> int:
        """Fill in the loaded programs, register the operations and return a new link descriptor.

        Raises:
            LoadError: the kernel refused, or the map is not in section ".struct_ops.link".
        """
        with captured_messages() as messages:
            link = self._lib.bpf_map__attach_struct_ops(self._live())
            err = ctypes.get_errno()
        if not link:
            raise LoadError(
                f"cannot register struct_ops {self.name}",
                err,
                log="".join(messages),
                where=f"map {self.name}",
            )
        try:
            return _duplicate(self._lib.bpf_link__fd(link), f"struct_ops {self.name}")
        finally:
            self._lib.bpf_link__destroy(link)

    def replace_struct_ops(self, link_fd: int) -> None:
        """Put these loaded operations in place of those that a link registers, without a gap.

        Raises:
            LoadError: the kernel refused, for example because the operations have another name.
        """
        # Only libbpf knows where the program descriptors go in the map's value, and only its attach
        # writes them. Attaching fails, the name being taken, but leaves the value in the map.
        try:
            os.close(self.attach_struct_ops())
        except LoadError as error:
            if error.errno != errno.EEXIST:
                raise
        else:
            raise LoadError(
                "the operations have another name than those to be replaced",
                errno.EINVAL,
                where=f"map {self.name}",
            )
        attr = struct.pack("=IIII", link_fd, self.fd, 0, 0)
        result, err = bpf_errno(Cmd.LINK_UPDATE, attr)
        if result < 0:
            raise LoadError("cannot replace struct_ops", err, where=f"map {self.name}")

    def _live(self) -> int:
        self._owner.check_open()
        return self._handle


class ObjectProgram:
    """A program in an object. `fd` is -1 before load()."""

    def __init__(self, handle: int, owner: BpfObject) -> None:
        self._handle = handle
        self._owner = owner
        self._lib = library()

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self._lib.bpf_program__name(self._live()).decode())

    @property
    def section(self) -> str:
        """The ELF section, the argument of SEC()."""
        return str(self._lib.bpf_program__section_name(self._live()).decode())

    @property
    def prog_type(self) -> ProgType:
        """The type that libbpf derived from the section, or that was set."""
        return ProgType(self._lib.bpf_program__type(self._live()))

    @property
    def expected_attach_type(self) -> AttachType:
        """The hook that the program is verified for."""
        return AttachType(self._lib.bpf_program__expected_attach_type(self._live()))

    @property
    def fd(self) -> int:
        """The file descriptor, which the object owns."""
        return max(-1, int(self._lib.bpf_program__fd(self._live())))

    def set_type(self, prog_type: ProgType) -> None:
        """Set the type, whatever the section says."""
        _check(self._lib.bpf_program__set_type(self._live(), prog_type), f"cannot set type of {self.name}")

    def set_expected_attach_type(self, attach_type: AttachType) -> None:
        """Set the hook to verify for."""
        status = self._lib.bpf_program__set_expected_attach_type(self._live(), attach_type)
        _check(status, f"cannot set attach type of {self.name}")

    def set_autoload(self, load: bool) -> None:
        """Say whether load() loads this program."""
        _check(self._lib.bpf_program__set_autoload(self._live(), load), f"cannot skip program {self.name}")

    def set_attach_target(self, function: str, prog_fd: int = 0) -> None:
        """Set what a tracing, LSM or iterator program attaches to, by its name in BTF.

        Args:
            function: the kernel function, tracepoint or hook; with `prog_fd` a function of that program.
            prog_fd: the program to trace or replace a function of, 0 for the kernel.
        """
        with captured_messages() as messages:
            status = self._lib.bpf_program__set_attach_target(self._live(), prog_fd, function.encode())
        _check(status, f"program {self.name} cannot attach to {function}", "".join(messages), self.name)

    def set_flags(self, flags: int) -> None:
        """Set load flags (BPF_F_SLEEPABLE, BPF_F_XDP_HAS_FRAGS ...)."""
        _check(self._lib.bpf_program__set_flags(self._live(), flags), f"cannot set flags of {self.name}")

    def duplicate(self) -> Program:
        """Return the loaded program with a descriptor of its own, which outlives the object."""
        return Program(_duplicate(self.fd, f"program {self.name}"))

    def _live(self) -> int:
        self._owner.check_open()
        return self._handle


class BpfObject:
    """An open BPF object; use as a context manager or call close(). One thread at a time."""

    def __init__(self, handle: int, name: str) -> None:
        self._handle = handle
        self._lib = library()
        self.name = name
        self.maps = {m.name: m for m in (ObjectMap(h, self) for h in self._walk("map"))}
        self.programs = {p.name: p for p in (ObjectProgram(h, self) for h in self._walk("program"))}
        for handle_of_map in self._walk("map"):
            self._lib.bpf_map__set_pin_path(handle_of_map, None)

    @classmethod
    def open(cls, elf: bytes, name: str = "obj") -> Self:
        """Parse an ELF object; nothing reaches the kernel yet.

        Args:
            elf: the file's contents.
            name: begins the kernel names of data sections' maps; letters, digits and underscores.

        Raises:
            LoadError: not a BPF object that libbpf understands.
        """
        lib = library()
        options = OpenOpts(sz=ctypes.sizeof(OpenOpts), object_name=name.encode())
        with captured_messages() as messages:
            handle = lib.bpf_object__open_mem(elf, len(elf), ctypes.byref(options))
            err = ctypes.get_errno()
        if not handle:
            raise LoadError("cannot read the object", err, log="".join(messages), where=name)
        return cls(handle, name)

    def load(self) -> None:
        """Create the maps, load and verify the programs.

        The first attempt asks for no log; libbpf repeats the one that fails with a log that grows until
        it holds everything (measured: a load that takes 0.4 s takes 1 to 1.5 s with a log).

        Raises:
            LoadError: with the verifier's log and the program's name.
        """
        with captured_messages() as messages:
            status = self._lib.bpf_object__load(self.check_open())
        if status < 0:
            raise _load_error(-status, "".join(messages), self.name)

    def close(self) -> None:
        """Free the object and close its descriptors."""
        if self._handle:
            self._lib.bpf_object__close(self._handle)
            self._handle = 0

    def check_open(self) -> int:
        """Return libbpf's handle.

        Raises:
            ValueError: the object was closed.
        """
        if not self._handle:
            raise ValueError(f"object {self.name} is closed")
        return self._handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _walk(self, kind: str) -> Iterator[int]:
        step = getattr(self._lib, f"bpf_object__next_{kind}")
        current = step(self._handle, None)
        while current:
            yield current
            current = step(self._handle, current)


def _load_error(err: int, messages: str, name: str) -> LoadError:
    verifier = _VERIFIER_LOG.findall(messages)
    named = _FAILED_PROGRAM.findall(messages)
    program = named[-1] if named else ""
    what = f"program {program} does not load" if program else "object does not load"
    if verifier:
        lines = [line for line in verifier[-1].splitlines() if line and not _PROCESSED.match(line)]
        if lines:
            what = f"program {program} is refused by the verifier: {lines[-1].strip()}"
    return LoadError(what, err, log=verifier[-1] if verifier else messages, program=program, where=name)


def _check(status: int, what: str, log: str = "", program: str = "") -> None:
    if status < 0:
        raise LoadError(what, -status, log=log, program=program)


def _duplicate(fd: int, what: str) -> int:
    if fd < 0:
        raise LoadError(f"{what} is not loaded", errno.EBADF)
    return os.dup(fd)  # close-on-exec, as Python does

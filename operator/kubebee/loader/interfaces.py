"""XDP on interfaces: which chain runs where, exchanged atomically and adopted after a restart."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kubebee.bpf.attach import XdpMode, attach_xdp
from kubebee.bpf.iface import xdp_program_on
from kubebee.bpf.link import Link
from kubebee.bpf.map import Map
from kubebee.bpf.program import Program
from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.loader import chain_object
from kubebee.loader.chain import ENTRY, Chain, dispatcher_bundle, link_chain, load_linked
from kubebee.loader.compiled import Compiler
from kubebee.loader.pins import CHAIN, PinRoot
from kubebee.planner.plan import ResourceKey

_MODES: dict[str, tuple[XdpMode, ...]] = {
    "Native": ("native",),
    "Generic": ("generic",),
    "Auto": ("native", "generic"),
}
_OCCUPIED = (errno.EBUSY, errno.EEXIST, errno.EINVAL)
_NO_NATIVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP})


class ForeignProgramError(KubebeeError):
    """Another agent's XDP program is on the interface; it is left alone."""

    reason = "ForeignProgram"


@dataclass
class ActiveChain:
    """A chain attached to an interface, as confirmed from the kernel."""

    interface: str
    ifindex: int
    mode: str
    hash: str
    chain: Chain
    program: Program
    prog_id: int
    link: Link
    link_id: int
    pin: Path


class XdpInterfaces:
    """All interfaces of this instance that run a chain."""

    def __init__(self, pins: PinRoot, compiler: Compiler) -> None:
        self._pins = pins
        self._compiler = compiler
        self._programs: dict[str, Program] = {}
        self._objects: dict[str, Map] = {}
        self.active: dict[str, ActiveChain] = {}

    async def program(self, chain: Chain) -> Program:
        """The loaded program of a chain: the one at hand, an adopted one, or a new one.

        Raises:
            LoadError: the verifier refuses the chain.
            KubebeeError: it can't be linked.
        """
        if chain.direct is not None:
            return chain.direct
        known = self._programs.get(chain.hash)
        if known is not None:
            return known
        pin = self._pins.program(CHAIN, ENTRY, chain.hash)
        kept = self._pins.chain_object(CHAIN, chain.hash)
        if pin.exists() and kept.exists():
            program = Program.from_pin(pin)
            self._objects[chain.hash] = Map.from_pin(kept)
        else:
            dispatcher, *_ = await self._compiler.elf(dispatcher_bundle(chain.shape))
            linked = link_chain(chain, dispatcher)
            program = Program.from_pin(pin) if pin.exists() else load_linked(chain, linked)
            _pin(program, pin)
            self._objects[chain.hash] = chain_object.keep(linked)
            _pin(self._objects[chain.hash], kept)
        self._programs[chain.hash] = program
        return program

    def attach(self, interface: str, ifindex: int, mode: str, chain: Chain, program: Program) -> ActiveChain:
        """Let `interface` run `chain`; a running one is replaced without a gap.

        Raises:
            ForeignProgramError: somebody else's program is there.
            BpfError: the kernel refuses.
        """
        active = self.active.get(interface) or self._adopt(interface, ifindex, chain, program)
        if active is not None and (active.ifindex != ifindex or not _attached(active)):
            self._forget(interface, active)
            active = None
        if active is not None and mode not in ("Auto", active.mode):
            active = self._change_mode(active, mode, chain, program)
        if active is not None and not _exchange(active, program):
            self._forget(interface, active)
            active = None
        if active is None:
            active = self._attach_new(interface, ifindex, mode, chain, program)
        active.chain, active.program = chain, program
        self._confirm(active, chain, program)
        self.active[interface] = active
        return active

    def _adopt(self, interface: str, ifindex: int, chain: Chain, program: Program) -> ActiveChain | None:
        for pin in self._pins.links_of(CHAIN):
            if pin.function != ENTRY or pin.target.rpartition(":")[2] != str(ifindex):
                continue  # not by name: it may have been renamed meanwhile
            link = Link.from_pin(pin.path)
            info = link.info
            if info.ifindex != ifindex:
                link.close()
                pin.path.unlink(missing_ok=True)
                continue
            state = xdp_program_on(ifindex)
            mode = state.mode.capitalize() if state else "Native"
            return ActiveChain(
                interface, ifindex, mode, pin.load_hash, chain, program, info.prog_id, link, info.id, pin.path
            )
        return None

    def _attach_new(
        self, interface: str, ifindex: int, mode: str, chain: Chain, program: Program
    ) -> ActiveChain:
        link, used = _attach_in_mode(interface, ifindex, mode, program)
        info = link.info
        pin = self._pins.link(CHAIN, ENTRY, f"{interface}:{ifindex}", chain.hash, chain.generation)
        pin.parent.mkdir(mode=0o700, exist_ok=True)
        pin.unlink(missing_ok=True)
        link.pin(pin)
        return ActiveChain(
            interface,
            ifindex,
            used.capitalize(),
            chain.hash,
            chain,
            program,
            info.prog_id,
            link,
            info.id,
            pin,
        )

    def _change_mode(self, active: ActiveChain, mode: str, chain: Chain, program: Program) -> ActiveChain:
        """Attach anew, as the kernel has no change of mode in place; where that fails, put back what ran."""
        interface, ifindex = active.interface, active.ifindex
        self._forget(interface, active)
        try:
            return self._attach_new(interface, ifindex, mode, chain, program)
        except KubebeeError:
            active.link, _ = _attach_in_mode(interface, ifindex, active.mode, active.program)
            info = active.link.info
            active.link_id, active.prog_id = info.id, info.prog_id
            active.link.pin(active.pin)
            self.active[interface] = active
            raise

    def _confirm(self, active: ActiveChain, chain: Chain, program: Program) -> None:
        """Read back what the kernel runs, and let the pin's name say it."""
        info = active.link.info
        if info.prog_id != program.info.id or info.ifindex != active.ifindex:
            raise KubebeeError(
                f"the kernel runs program {info.prog_id}, not {program.info.id}",
                reason="NotConfirmed",
                where=active.interface,
            )
        active.prog_id, active.hash = info.prog_id, chain.hash
        wanted = self._pins.link(
            CHAIN, ENTRY, f"{active.interface}:{active.ifindex}", chain.hash, chain.generation
        )
        if not active.pin.exists():
            wanted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            active.link.pin(wanted)
        elif wanted != active.pin:
            active.pin.rename(wanted)
        active.pin = wanted

    def follow_names(self, interfaces: Mapping[str, int]) -> None:
        """Know chains by the names that their interfaces have now; forget those whose interface is gone.

        Args:
            interfaces: ifindex by name.
        """
        names = {index: name for name, index in interfaces.items()}
        for name, active in list(self.active.items()):
            if active.ifindex not in names:
                self._forget(name, active)
        for active in self.active.values():
            active.interface = names[active.ifindex]
        self.active = {active.interface: active for active in self.active.values()}

    def rename_unit(self, old: ResourceKey, new: ResourceKey) -> None:
        """Know the stages of a unit by another name."""
        for active in self.active.values():
            stages = (replace(one, key=new) if one.key == old else one for one in active.chain.stages)
            active.chain = Chain(tuple(stages))

    def leaving(self, interface: str, chain: Chain | None) -> set[ResourceKey]:
        """Units with a stage that `interface` runs and that `chain` does not have."""
        active = self.active.get(interface)
        if active is None:
            return set()
        stay = {(one.key, one.function) for one in (chain.stages if chain else ())}
        return {one.key for one in active.chain.stages if (one.key, one.function) not in stay}

    def detach(self, interface: str) -> None:
        """Let `interface` run nothing of ours."""
        active = self.active.pop(interface, None)
        if active is not None:
            self._forget(interface, active)

    def _forget(self, interface: str, active: ActiveChain) -> None:
        active.pin.unlink(missing_ok=True)
        active.link.close()
        self.active.pop(interface, None)

    def drop_unused(self) -> None:
        """Let go of programs that no interface runs."""
        used = {active.chain.hash for active in self.active.values()}
        for unused in set(self._programs) - used:
            self._programs.pop(unused).close()
            self._objects.pop(unused).close()

    def pins(self) -> set[Path]:
        """Every pin that is in use."""
        linked = {active.chain.hash for active in self.active.values() if active.chain.direct is None}
        found = {active.pin for active in self.active.values()}
        for digest in linked:
            found |= {self._pins.program(CHAIN, ENTRY, digest), self._pins.chain_object(CHAIN, digest)}
        return found

    def repin(self) -> None:
        """Pin everything again where pins are gone."""
        for active in self.active.values():
            if active.chain.direct is None:
                digest = active.chain.hash
                _pin(active.program, self._pins.program(CHAIN, ENTRY, digest))
                _pin(self._objects[digest], self._pins.chain_object(CHAIN, digest))
            _pin(active.link, active.pin)

    def lost(self) -> list[ActiveChain]:
        """Chains whose link was detached behind our back, or runs another program."""
        return [active for active in self.active.values() if not _attached(active)]


def _pin(held: Program | Map | Link, path: Path) -> None:
    """Pin where nothing is pinned yet."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held.pin(path)


def _attached(active: ActiveChain) -> bool:
    try:
        info = active.link.info
    except BpfError:
        return False
    return info.ifindex == active.ifindex


def _exchange(active: ActiveChain, program: Program) -> bool:
    """Let a link run `program`; False if that takes a new link."""
    if active.link.info.prog_id == program.info.id:
        return True
    try:
        active.link.update(program.fd)
    except BpfError as error:
        # What BCC loads has no expected attach type; the kernel wants both programs to have the same.
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def _attach_in_mode(interface: str, ifindex: int, mode: str, program: Program) -> tuple[Link, XdpMode]:
    modes = _MODES[mode]
    for attempt in modes:
        try:
            return attach_xdp(program.fd, ifindex, attempt), attempt
        except BpfError as error:
            foreign = xdp_program_on(ifindex) if error.errno in _OCCUPIED else None
            if foreign is not None:
                raise ForeignProgramError(
                    f"already runs an XDP program that is not ours: {_describe(foreign.prog_id)}",
                    where=interface,
                    hint=f"detach it if it is not needed: bpftool net detach xdp dev {interface}",
                ) from error
            if attempt == modes[-1] or error.errno not in _NO_NATIVE:
                raise
    raise AssertionError("a mode is always tried")


def _describe(prog_id: int) -> str:
    try:
        with Program.from_id(prog_id) as program:
            info = program.info
    except BpfError:
        return f"id {prog_id}"
    return f"{info.name or 'unnamed'} (id {prog_id}, tag {info.tag}, loaded by uid {info.created_by_uid})"

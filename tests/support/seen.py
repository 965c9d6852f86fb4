"""What the kernel of a node says of a resource, by bpftool and through pins: never from kubebee."""

from __future__ import annotations

from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any, Protocol

from support.running import Status

PINS = "/sys/fs/bpf/kubebee"


class Place(Protocol):
    """Where commands can be run: a lab's node, or a cluster's."""

    def run(self, *argv: str, check: bool = True) -> CompletedProcess[str]:
        """Run a command there."""

    def bpftool(self, *argv: str) -> Any:
        """What bpftool says there, decoded."""


def pins(running: Place, unit: str, part: str = "?") -> list[str]:
    """Pinned files of a BpfProgram; `part`: m for maps, p for programs, l for links."""
    found = running.run("sh", "-c", f"ls -d {PINS}/{part}/bpfprogram-{unit}/* 2>/dev/null", check=False)
    return found.stdout.split()


def entries(running: Place, unit: str, map_name: str) -> list[dict[str, Any]]:
    """Entries of a map of a BpfProgram, as bpftool shows them."""
    name = map_name.replace(".", "%2E")
    (pin,) = [pin for pin in pins(running, unit, "m") if pin.rpartition("/")[2].startswith(f"{name}@")]
    return list(running.bpftool("map", "dump", "pinned", pin))


def variable(running: Place, unit: str, name: str, section: str = ".bss") -> Any:
    """A global variable, decoded by bpftool."""
    (entry,) = entries(running, unit, section)
    ((_, variables),) = entry["formatted"]["value"].items()
    return next(one[name] for one in variables if name in one)


def program_ids(running: Place, unit: str) -> set[int]:
    """Programs that a BpfProgram's pins hold."""
    return {running.bpftool("prog", "show", "pinned", pin)["id"] for pin in pins(running, unit, "p")}


@dataclass(frozen=True)
class InKernel:
    """Everything that a BpfProgram has in the kernel, by id."""

    programs: set[int]
    links: set[int]
    maps: set[int]

    @classmethod
    def of(cls, running: Place, status: Status) -> InKernel:
        """What the attachments of a status lead to."""
        programs = {a["progId"] for a in status.attachments if "progId" in a}  # struct_ops are none
        links = {a["linkId"] for a in status.attachments if "linkId" in a}  # filters of tc have none
        shown = running.bpftool("prog", "show")
        maps = {m for p in shown if p["id"] in programs for m in p.get("map_ids", [])}
        return cls(programs, links, maps)

    def gone(self, running: Place) -> bool:
        """Whether none of it is there any more."""
        wanted = {"prog": self.programs, "link": self.links, "map": self.maps}
        return not any(
            ids & {one["id"] for one in running.bpftool(kind, "show")} for kind, ids in wanted.items()
        )

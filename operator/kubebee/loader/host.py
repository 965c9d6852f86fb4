"""This node as attach targets see it: its interfaces, cgroup hierarchy and files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kubebee.api.v1alpha1.selectors import Interfaces
from kubebee.bpf.features import feature, require
from kubebee.errors import KubebeeError
from kubebee.loader.host_files import HostFiles

TcMode = Literal["TCX", "Clsact"]
"""How programs of type TC are attached: by tcx links, or by filters on a clsact qdisc."""

TcChoice = Literal["auto", "tcx", "clsact"]


class TargetError(KubebeeError):
    """What a program shall be attached to can't be determined; only an edit helps."""

    reason = "InvalidTarget"


@dataclass(frozen=True, slots=True)
class Selected:
    """Interfaces a selector means now.

    Attributes:
        found: ifindex by name.
        missing: names asked for that don't exist (yet).
    """

    found: dict[str, int]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A view of the node at one moment.

    Attributes:
        interfaces: ifindex by name.
        primary: gives the interface of the default route, None without one; asked only when needed.
        cgroup_root: mount point of cgroup2.
        tc_mode: how programs of type TC are attached here.
        files: of the node.
        loses_frames: gives the interfaces that lose what XDP sends out; asked only when needed.
    """

    interfaces: Mapping[str, int]
    primary: Callable[[], str | None]
    cgroup_root: Path = field(default_factory=lambda: find_cgroup2())
    tc_mode: TcMode = "TCX"
    files: HostFiles = field(default_factory=HostFiles)
    loses_frames: Callable[[], frozenset[int]] = frozenset

    def select(self, wanted: Interfaces | None, where: str = "interfaces") -> Selected:
        """Interfaces that `wanted` means; loopback only by its name.

        Raises:
            TargetError: a regular expression is not one: never taken for "all".
        """
        if wanted is None:
            wanted = Interfaces(primary=True)
        patterns = [_compile(text, where) for text in wanted.regexes or ()]
        names = dict.fromkeys(wanted.names or ())
        missing = tuple(name for name in names if name not in self.interfaces)
        chosen = {name for name in names if name in self.interfaces}
        for name in self.interfaces:
            if (wanted.all and name != "lo") or any(pattern.fullmatch(name) for pattern in patterns):
                chosen.add(name)
        if wanted.primary:
            primary = self.primary()
            if primary is None:
                missing = (*missing, "(the interface of the default route)")
            else:
                chosen.add(primary)
        excluded = [_compile(text, where) for text in wanted.exclude or ()]
        chosen = {name for name in chosen if not any(pattern.fullmatch(name) for pattern in excluded)}
        return Selected({name: self.interfaces[name] for name in sorted(chosen)}, missing)

    def cgroup(self, path: str | None) -> Path:
        """Directory of a cgroup given as an absolute path, or relative to the cgroup2 root."""
        if not path:
            return self.cgroup_root
        absolute = Path(path)
        if absolute.is_relative_to(self.cgroup_root):
            return absolute
        return self.cgroup_root / path.lstrip("/")


def tc_mode(choice: TcChoice) -> TcMode:
    """How programs of type TC are attached by this kernel.

    Raises:
        UnsupportedError: tcx is asked for and the kernel has none.
    """
    if choice == "tcx":
        require("tcx")
    return "TCX" if choice != "clsact" and feature("tcx").available else "Clsact"


def _compile(text: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise TargetError(
            f"{text!r} is not a regular expression: {error}",
            reason="InvalidRegex",
            where=where,
            hint="mend it; it is matched against the whole name",
        ) from error


def find_cgroup2() -> Path:
    """Where the cgroup2 hierarchy is mounted.

    Raises:
        TargetError: nowhere.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if line.rpartition(" - ")[2].split()[0] == "cgroup2":
            return Path(fields[4])
    raise TargetError("no cgroup2 hierarchy is mounted", reason="NoCgroup2", hint="mount -t cgroup2 none DIR")

"""What a sandbox is given to run, and what it may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one command may use; seconds and bytes. Memory is address space, per process."""

    wall_seconds: float = 20.0
    cpu_seconds: int = 15
    memory_bytes: int = 1 << 30
    output_bytes: int = 16 << 20
    processes: int = 64
    open_files: int = 256


@dataclass(frozen=True)
class Job:
    """A command and all that it may see.

    Attributes:
        argv: clang and its arguments; run without a shell. Only clang: where there is no mount namespace, it
            is clang's own virtual file system that shows it the paths below.
        files: absolute path inside the sandbox -> content.
        directories: absolute path inside the sandbox -> host directory, read-only.
        cwd: working directory inside the sandbox.
    """

    argv: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    directories: Mapping[str, Path] = field(default_factory=dict)
    cwd: str = "/"
    limits: Limits = field(default_factory=Limits)

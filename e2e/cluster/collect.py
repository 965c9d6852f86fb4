"""What a reader of a failed run needs: logs and descriptions, in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from cluster.commands import Done
from cluster.errors import ClusterError
from cluster.node import Node
from cluster.spec import ClusterSpec

_QUERIES: tuple[tuple[str, ...], ...] = (
    ("get", "nodes", "-o", "wide"),
    ("get", "pods", "-A", "-o", "wide"),
    ("get", "events", "-A", "--sort-by=.lastTimestamp"),
    ("describe", "nodes"),
    ("describe", "pods", "-A"),
    ("get", "all,configmaps,leases", "-n", "kubebee-system", "-o", "yaml"),
    ("get", "bpfprograms,servicelbs,hostpolicies,bpfnodes", "-o", "yaml"),
)
_ON_NODE = (
    ("ip", "-details", "address"),
    ("ip", "route"),
    ("bpftool", "net", "list"),
    ("bpftool", "prog", "list"),
    ("bpftool", "link", "list"),
    ("find", "/sys/fs/bpf"),
    ("nft", "list", "ruleset"),
)


def collect(spec: ClusterSpec, nodes: Iterable[Node], kubectl: Callable[..., Done], folder: Path) -> None:
    """Write what there is to `folder`; what cannot be had is said there too, never raised."""
    folder.mkdir(parents=True, exist_ok=True)
    for query in _QUERIES:
        _write(folder / f"kubectl-{_name(query)}.txt", partial(kubectl, *query, check=False))
    _copy(spec.logs, folder / "control-plane")
    for node in nodes:
        _copy(node.spec.home / "logs", folder / node.name)
        _copy(node.spec.home / "var-log" / "pods", folder / node.name / "pods")
        if node.runs:
            for query in _ON_NODE:
                target = folder / node.name / f"{_name(query)}.txt"
                _write(target, partial(node.run, *query, check=False))


def _name(words: Sequence[str]) -> str:
    return "-".join(word.strip("-./").replace("/", "_").replace("=.", "-") for word in words)[:60]


def _write(path: Path, ask: Callable[[], Done]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = ask()
        path.write_text(done.stdout + done.stderr)
    except ClusterError as error:
        path.write_text(f"{error}\n")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)

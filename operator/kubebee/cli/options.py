"""Options that several verbs have; where verbs differ by a default only, they say that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Verb = TypeVar("_Verb", bound=Callable[..., Any])
_Option = Callable[[_Verb], _Verb]

DEFAULT_BPFFS = Path("/sys/fs/bpf")
DEFAULT_CACHE = Path("/var/cache/kubebee")

bpffs = click.option(
    "--bpffs",
    type=click.Path(path_type=Path),
    default=DEFAULT_BPFFS,
    show_default=True,
    envvar="KUBEBEE_BPFFS",
    show_envvar=True,
    help="BPF file system that this instance of kubebee pins in.",
)


def cache_at(default: Path, what: str) -> _Option[Any]:
    """Where compiled objects are kept."""
    return click.option(
        "--cache",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        envvar="KUBEBEE_CACHE",
        show_envvar=True,
        help=what,
    )


def kubeconfig(default: str) -> _Option[Any]:
    """The cluster; `default` says which it is without the option."""
    return click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        default=None,
        help=f"Ask the API server of this file's current context, as its user. [default: {default}]",
    )


def metrics(port: int, address: str | None, what: str) -> _Option[Any]:
    """Port and address to serve at; port 0 serves nothing."""

    def add(verb: _Verb) -> _Verb:
        with_address = click.option(
            "--metrics-address",
            default=address,
            show_default=address is not None,
            help=f"Address to serve them on.{'' if address else ' [default: all]'}",
        )
        with_port = click.option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=True,
            help=f"Serve {what} on this TCP port; 0 serves nothing.",
        )
        return with_port(with_address(verb))

    return add


cache = cache_at(DEFAULT_CACHE, "Folder of compiled objects.")
directory = click.option(
    "-f",
    "--file",
    "directory",
    type=click.Path(path_type=Path),
    required=True,
    envvar="KUBEBEE_DIRECTORY",
    show_envvar=True,
    help="Folder of manifests.",
)
manifests = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
tc_mode = click.option(
    "--tc-mode",
    type=click.Choice(["auto", "tcx", "clsact"]),
    default="auto",
    show_default=True,
    envvar="KUBEBEE_TC_MODE",
    show_envvar=True,
    help="How programs of type TC are attached; auto: by tcx links where the kernel has them (6.6).",
)
cgroup = click.option(
    "--cgroup",
    type=click.Path(path_type=Path),
    default=None,
    envvar="KUBEBEE_CGROUP",
    show_envvar=True,
    help="cgroup2 folder that cgroup paths of resources start from. [default: where it is mounted]",
)
enable_stats = click.option(
    "--enable-stats",
    is_flag=True,
    envvar="KUBEBEE_ENABLE_STATS",
    show_envvar=True,
    help="Let the kernel count runs and time of all programs on this machine: about 50 ns a run; "
    "needs CAP_SYS_ADMIN. XDP functions are counted without it.",
)
log_style = click.option(
    "--log",
    "style",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="Form of log lines; auto: text on a terminal, else JSON.",
)
verbose = click.option("-v", "--verbose", is_flag=True, help="Debug messages too.")

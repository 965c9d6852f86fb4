"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path

import click

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
cache = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=DEFAULT_CACHE,
    show_default=True,
    envvar="KUBEBEE_CACHE",
    show_envvar=True,
    help="Folder of compiled objects.",
)
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
log_style = click.option(
    "--log",
    "style",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="Form of log lines; auto: text on a terminal, else JSON.",
)
verbose = click.option("-v", "--verbose", is_flag=True, help="Debug messages too.")

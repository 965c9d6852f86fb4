"""``python -m cluster``: prepare, up, down, status, kubectl, run, load, collect. See ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from cluster.cluster import Cluster
from cluster.errors import ClusterError
from cluster.prepare import prepare
from cluster.spec import ClusterSpec
from cluster.teardown import leftovers


def arguments(args: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__import__("cluster").__doc__)
    parser.add_argument("--name", default="kbc", help="prefix of all it makes (default: %(default)s)")
    parser.add_argument("--number", type=int, default=0, help="picks its addresses: 172.18.NUMBER.0/24")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="install and build what it needs, without starting it")
    verbs.add_parser("up", help="bring it up, or complete it").add_argument("--nodes", type=int, default=2)
    verbs.add_parser("down", help="leave nothing of it")
    verbs.add_parser("status", help="what is up")
    verbs.add_parser("kubectl", help="kubectl as administrator", add_help=False)
    on_node = verbs.add_parser("run", help="run a command on a node")
    on_node.add_argument("node", help="its name or number, or 'client'")
    verbs.add_parser("load", help="load image archives into all nodes").add_argument(
        "archives", nargs="+", type=Path
    )
    verbs.add_parser("collect", help="write logs and state to a folder").add_argument("folder", type=Path)
    known, rest = parser.parse_known_args(args)
    if rest and known.verb not in ("kubectl", "run"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    known.rest = rest[1:] if rest[:1] == ["--"] else rest
    return known


def main(args: list[str]) -> int:
    """Do what the command line says; returns the exit code."""
    asked = arguments(args)
    began = time.monotonic()
    try:
        cluster = Cluster(ClusterSpec(asked.name, asked.number))
        if asked.verb == "prepare":
            prepare(cluster.spec.home)
        elif asked.verb == "up":
            cluster.up(asked.nodes)
            print(f"cluster: up in {time.monotonic() - began:.0f} s")
            print(f"export KUBECONFIG={cluster.spec.kubeconfig}")
        elif asked.verb == "down":
            cluster.down()
        elif asked.verb == "status":
            print("\n".join(leftovers(cluster.spec)) or "down")
            return 0 if cluster.is_up else 3
        elif asked.verb == "kubectl":
            kubectl = cluster.programs / "kubectl"
            os.execv(kubectl, [str(kubectl), f"--kubeconfig={cluster.spec.kubeconfig}", *asked.rest])  # noqa: S606
        elif asked.verb == "run":
            name = int(asked.node) if asked.node.isdigit() else asked.node
            host = cluster.client if name == "client" else cluster.node(name)
            command = host.command(asked.rest or ["sh"])
            os.execvp(command[0], command)  # noqa: S606
        elif asked.verb == "load":
            for archive in asked.archives:
                cluster.load_image(archive.resolve())
        else:
            cluster.collect(asked.folder)
    except (ClusterError, ValueError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

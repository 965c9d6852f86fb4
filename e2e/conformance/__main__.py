"""``python -m conformance``: build, list, run, baseline. See ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster import Cluster, ClusterError, ClusterSpec
from cluster.node_files import KUBE_PROXY_MODES
from conformance import names
from conformance.report import Spec
from conformance.specs import PROCESSES, give_zones, list_specs, run_specs
from conformance.suite import CACHE, MODULE, build

_WITHIN_S = 4 * 3600.0


def arguments(args: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance", description=__import__("conformance").__doc__
    )
    parser.add_argument("--name", default="kbc", help="cluster to use, as in python -m cluster")
    parser.add_argument("--number", type=int, default=0, help="its number")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build tests and images")
    listing = verbs.add_parser("list", help="names of specs")
    run = verbs.add_parser("run", help="run specs on the cluster, which is brought up if need be")
    for verb in (listing, run):
        verb.add_argument(
            "focus",
            nargs="?",
            default=names.CONFORMANCE_OF_SERVICES,
            help="Go's pattern of names (default: %(default)s)",
        )
        verb.add_argument("--skip", default="", help="pattern of names to leave out")
    run.add_argument("--keep-failed", action="store_true", help="leave what failed specs made")
    baseline = verbs.add_parser("baseline", help="run all about Services with kube-proxy, write what passes")
    for verb in (run, baseline):
        verb.add_argument("--folder", type=Path, default=CACHE / "run", help="for log and report")
        verb.add_argument("--within", type=float, default=_WITHIN_S, help="seconds for all")
        verb.add_argument("--processes", type=int, default=PROCESSES, help="specs at a time")
    run.add_argument("--kube-proxy", choices=KUBE_PROXY_MODES, help="have kube-proxy on all nodes meanwhile")
    baseline.add_argument("--kube-proxy", choices=KUBE_PROXY_MODES, default="nftables", help="its mode")
    return parser.parse_args(args)


def main(args: list[str]) -> int:
    """Do what the command line says. Exit code 0: done, all passed; 1: an error; 2: specs failed."""
    asked = arguments(args)
    try:
        cluster = Cluster(ClusterSpec(asked.name, asked.number)).up(
            nodes=names.BASELINE_NODES if asked.verb == "baseline" else 2
        )
        suite = build(cluster.programs)
        if asked.verb == "build":
            print(suite.folder)
            return 0
        if asked.verb == "baseline":
            give_zones(cluster)
            matching = list_specs(suite, cluster, names.OF_NETWORKS, names.NOT_OF_NETWORKS)
            wanted = [name for name in matching if name not in names.UNFIT]
        else:
            wanted = list_specs(suite, cluster, asked.focus, asked.skip)
        if asked.verb == "list":
            print("\n".join(wanted))
            return 0
        folder = asked.folder.absolute()
        keep_failed = asked.verb == "run" and asked.keep_failed
        print(f"conformance: {len(wanted)} specs; log: {folder / 'log'}", flush=True)
        with _kube_proxy(cluster, asked.kube_proxy):
            specs = run_specs(
                suite,
                cluster,
                wanted,
                folder,
                within=asked.within,
                processes=asked.processes,
                keep_failed=keep_failed,
            )
    except (ClusterError, ValueError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    _print(specs)
    if asked.verb == "baseline":
        _write_baseline(specs, asked.kube_proxy)
        return 0
    return 0 if all(spec.passed for spec in specs) else 2


@contextmanager
def _kube_proxy(cluster: Cluster, mode: str | None) -> Iterator[None]:
    if mode is None:
        yield
        return
    try:
        for node in cluster.nodes:
            node.kube_proxy_on(mode)
        yield
    finally:
        for node in cluster.nodes:
            node.kube_proxy_off()


def _print(specs: Sequence[Spec]) -> None:
    for spec in specs:
        if not spec.passed:
            print(f"{spec.account}\n")
    for spec in specs:
        print(f"{spec.state:11} {spec.seconds:4.0f} s  {spec.name}")
    passed = sum(spec.passed for spec in specs)
    print(f"{passed}/{len(specs)} passed, {sum(spec.seconds for spec in specs):.0f} s")


def _write_baseline(specs: Sequence[Spec], mode: str) -> None:
    """Write what passed."""
    passed = sorted(spec.name for spec in specs if spec.passed)
    by = f"Kubernetes {MODULE.version}, kube-proxy ({mode}); written by `python -m conformance baseline`."
    names.write(names.BASELINE, passed, "The specs about Services that pass on the e2e cluster.", by)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

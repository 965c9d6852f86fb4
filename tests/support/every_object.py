"""All that the built-in datapaths may be rendered as, for the verifiers of other kernels.

``python -m support.every_object compile FOLDER`` makes the objects, which takes minutes where the machine is
emulated; ``... load FOLDER`` lets this kernel verify each. Stages are linked to a chain as on an interface:
stack room is what older kernels refuse, and a chain's is shared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kubebee.bpf.object import BpfObject
from kubebee.errors import KubebeeError
from kubebee.lb.features import Features
from kubebee.loader.chain import Chain, Stage, dispatcher_bundle, link_chain, new_run_map
from kubebee.loader.unit import Rank
from kubebee.planner.plan import ResourceKey
from kubebee.render.environment import render_builtin
from support import hostpolicy, servicelb
from support.clang import HEADERS, LICENSE, compile_c

ALL = Features(dsr=True, ip_option=True, ipv6=True, affinity=True, cut_over=True, random=True)
SETS = {
    "nothing": Features(),
    "all": ALL,
    "all-for-the-host": replace(ALL, host_only=True),
    "without-cut-over": replace(ALL, cut_over=False),
    "dsr": Features(dsr=True),
    "dsr-cut-over": Features(dsr=True, cut_over=True),
    "dsr-option": Features(dsr=True, ip_option=True),
    "dsr-option-affinity": Features(dsr=True, ip_option=True, affinity=True),
    "ipv6": Features(ipv6=True),
    "ipv6-dsr": Features(ipv6=True, dsr=True),
    "random-affinity": Features(random=True, affinity=True),
}
_USER = 'SEC("xdp")\nint count(struct xdp_md *ctx)\n{\n\t(void)ctx;\n\treturn XDP_PASS;\n}\n'


def objects(features: Features) -> Iterator[tuple[str, bytes]]:
    """What goes to the kernel with a set of features, by what it is."""
    families = (False, True) if features.ipv6 else (False,)
    yield "chain", _chain(features, families)
    for six in families:
        yield f"tc{'6' * six}", servicelb.tc_elf(six, features)
    yield "sockets", compile_c(render_builtin("socketlb", features.context()))


def _chain(features: Features, families: tuple[bool, ...]) -> bytes:
    """The firewall, the load balancer of both families and a user's program."""
    balancer = ResourceKey("ServiceLB", "_all")
    stages = [
        _stage(ResourceKey("HostPolicy", "edge"), "kb_hostpolicy", Rank.POLICY, hostpolicy.elf()),
        *(
            _stage(balancer, f"kb_servicelb{'6' * six}", Rank.LB, servicelb.elf(False, six, features))
            for six in families
        ),
        _stage(ResourceKey("BpfProgram", "count"), "count", Rank.USER, compile_c(HEADERS + _USER + LICENSE)),
    ]
    chain = Chain.of(stages)
    return link_chain(chain, compile_c(dispatcher_bundle(chain.shape).source)).elf


def _stage(key: ResourceKey, function: str, rank: Rank, elf: bytes) -> Stage:
    mask = 1 << servicelb.PASS if rank is Rank.USER else None
    return Stage(key, function, rank, 0, mask, elf, "hash", {}, new_run_map(), 1)


def compile_all(folder: Path) -> None:
    """Write every object into a folder."""
    for name, features in SETS.items():
        for what, elf in objects(features):
            (folder / f"{name}.{what}.o").write_bytes(elf)


def load_all(folder: Path) -> int:
    """Load every object and let it go again; prints what became of each, returns how many were refused."""
    refused = 0
    for path in sorted(folder.glob("*.o")):
        start = time.monotonic()
        try:
            with BpfObject.open(path.read_bytes(), name="every") as opened:
                opened.load()
        except KubebeeError as error:
            refused += 1
            print(f"{path.stem}: {error}", flush=True)
        else:
            print(f"{path.stem}: passes, {time.monotonic() - start:.1f} s", flush=True)
    return refused


if __name__ == "__main__":
    verb, where = sys.argv[1:]
    sys.exit(compile_all(Path(where)) if verb == "compile" else load_all(Path(where)))

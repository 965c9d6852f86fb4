"""Nanoseconds that the XDP chain adds: a dispatcher of 1, 2, 4 and 8 empty stages. Prints JSON.

Needs root and clang. The chain is made as the loader makes it: dispatcher, stages linked in, counters of
each stage in a per-CPU map. `alone` is such a stage as a program of its own. BPF_PROG_TEST_RUN, cases take
turns, each figure is of 9 runs of a million packets. `a_stage` is the slope between 1 and 8 stages.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bench.report import Figure, Report
from bench.site import scratch
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from kubebee.loader.chain import Chain, Stage, dispatcher_bundle, load_chain, new_run_map
from kubebee.loader.unit import Rank
from kubebee.planner.plan import ResourceKey
from kubebee.toolchain import compile as toolchain
from support.clang import HEADERS, LICENSE, compile_c

RUNS = 9
REPEAT = 1_000_000
STAGES = (1, 2, 4, 8)
FRAME = bytes(64)
XDP_PASS = 2
EMPTY = 'SEC("xdp") int stage(struct xdp_md *ctx) { return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP; }\n'


def chain(elf: bytes, stages: int, cache: Path, stack: ExitStack) -> Program:
    """A loaded chain of equal stages."""
    made = Chain.of(
        [
            Stage(
                key=ResourceKey("BpfProgram", f"stage{number}"),
                function="stage",
                rank=Rank.USER,
                priority=number,
                proceed_mask=1 << XDP_PASS,
                elf=elf,
                load_hash="",
                maps={},
                run_map=stack.enter_context(new_run_map()),
                generation=1,
            )
            for number in range(stages)
        ]
    )
    bundle = dispatcher_bundle(made.shape)
    request = toolchain.CompileRequest(bundle.source, bundle.filename, builtin=True)
    return stack.enter_context(load_chain(made, toolchain.compile_c(request, cache).elf))


def main() -> None:
    elf = compile_c(HEADERS + EMPTY + LICENSE)
    with ExitStack() as stack:
        cache = stack.enter_context(scratch())
        opened = stack.enter_context(BpfObject.open(elf, "stage"))
        opened.load()
        programs = {"alone": stack.enter_context(opened.programs["stage"].duplicate())}
        programs |= {f"chain_of_{number}": chain(elf, number, cache, stack) for number in STAGES}
        runs: dict[str, list[int]] = {name: [] for name in programs}
        for _ in range(RUNS):
            for name, program in programs.items():
                result = program.test_run(FRAME, repeat=REPEAT)
                assert result.retval == XDP_PASS, name
                runs[name].append(result.duration_ns)
    report = Report("chain_cost", "none given; what a stage costs that does nothing", RUNS)
    report.figures = {name: Figure("ns", values) for name, values in runs.items()}
    ends = zip(runs["chain_of_8"], runs["chain_of_1"], strict=True)
    report.figures["a_stage"] = Figure("ns", [(eight - one) / 7 for eight, one in ends])
    report.print()


if __name__ == "__main__":
    main()

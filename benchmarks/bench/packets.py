"""What a packet costs a program (BPF_PROG_TEST_RUN), on a machine whose speed changes meanwhile.

Two things move such figures on a shared machine: the clock, and a neighbour on the same core, whose threads
share its execution units. Each has a ruler here, taken before and after every sample:

- `clock`: multiplications that depend on each other, 3 cycles each on x86 whatever the neighbour does. Gives
  the clock, and so costs in cycles.
- `width`: additions that do not depend on each other, as many at a time as the core has left. The less is
  left, the longer they take in relation to `clock`.

Samples are short and take turns, so that a slow moment meets all cases alike. A sample is *quiet* when both
times the core was as free as in the best moments of the run.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.report import Figure, Number, Report
from kubebee.bpf.object import BpfObject
from kubebee.bpf.program import Program
from support.clang import HEADERS, LICENSE, compile_c

TURNS = 201
REPEAT = 20_000
QUIET = 1.15
"""How much longer `width` may take than in the best moments."""
ENOUGH = 11
"""Quiet samples below which a case has no figures of them."""

_EMPTY = "return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP;"
_PASS = 2
_FRAME = bytes(64)
_RULER_REPEAT = 2_000
_MULTIPLICATIONS = 300
_MULTIPLICATION_CYCLES = 3
_ADDITIONS = 1_200


@dataclass(frozen=True)
class Case:
    """A program and a packet; `verdict` is what must come of it."""

    program: Program
    frame: bytes
    verdict: int


@dataclass(frozen=True)
class Sample:
    """One sample, and the machine around it.

    Attributes:
        ns: mean of a run; the kernel cuts it to whole nanoseconds.
        cycle: nanoseconds.
        busy: time of `width` over that of `clock`, the worse of before and after.
    """

    ns: int
    cycle: float
    busy: float


@dataclass(frozen=True)
class Samples:
    """One sample per case and turn. The case `empty` is a program that does nothing."""

    by_case: Mapping[str, Sequence[Sample]]

    @functools.cached_property
    def free(self) -> float:
        """`busy` of a core that is ours alone. Not the least: that is too small by the cut nanoseconds."""
        busy = sorted(sample.busy for taken in self.by_case.values() for sample in taken)
        return busy[len(busy) // 50]

    def figures(
        self, name: str, aim: Number | None = None, over_aim: Number | None = None
    ) -> dict[str, Figure]:
        """A case's figures: of all samples, then of quiet ones.

        `over_empty` is what is over the empty program's time in the same turn; with `quiet`, what is over the
        mean of its quiet samples.

        Args:
            name: of the case.
            aim: for the time, ns.
            over_aim: for the time over the empty program's, ns.
        """
        taken, empty = self.by_case[name], self.by_case["empty"]
        figures = {
            name: Figure("ns", [sample.ns for sample in taken], aim),
            f"{name}_over_empty": Figure(
                "ns", [sample.ns - base.ns for sample, base in zip(taken, empty, strict=True)], over_aim
            ),
        }
        quiet = [sample for sample in taken if self._quiet(sample)]
        quiet_empty = [sample.ns for sample in empty if self._quiet(sample)]
        if min(len(quiet), len(quiet_empty)) >= ENOUGH:
            base_ns = statistics.mean(quiet_empty)
            figures |= {
                f"{name}_quiet": Figure("ns", [sample.ns for sample in quiet], aim),
                f"{name}_over_empty_quiet": Figure("ns", [sample.ns - base_ns for sample in quiet], over_aim),
                f"{name}_over_empty_quiet_cycles": Figure(
                    "cycles", [(sample.ns - base_ns) / sample.cycle for sample in quiet]
                ),
            }
        return figures

    def ratio(self, name: str, to: str, aim: Number) -> Figure:
        """A case's time in relation to another's in the same turn; of quiet samples if there are enough."""
        return Figure("ratio", [a.ns / b.ns for a, b in self._pairs(name, to)], aim)

    def over(self, name: str, base: str, aim: Number) -> Figure:
        """What a case takes over another in the same turn; of quiet samples if there are enough."""
        return Figure("ns", [a.ns - b.ns for a, b in self._pairs(name, base)], aim)

    def _pairs(self, name: str, other: str) -> Sequence[tuple[Sample, Sample]]:
        pairs = list(zip(self.by_case[name], self.by_case[other], strict=True))
        quiet = [(a, b) for a, b in pairs if self._quiet(a) and self._quiet(b)]
        return quiet if len(quiet) >= ENOUGH else pairs

    def describe_machine(self, report: Report) -> None:
        """Add how fast and how noisy the machine was."""
        everything = [sample for taken in self.by_case.values() for sample in taken]
        report.figures |= {
            "empty": Figure("ns", [sample.ns for sample in self.by_case["empty"]]),
            "clock": Figure("GHz", [1 / sample.cycle for sample in everything]),
            "core_busy": Figure("ratio", [sample.busy / self.free for sample in everything]),
        }
        quiet = sum(map(self._quiet, everything))
        report.notes |= {
            "runs_per_sample": REPEAT,
            "quiet_samples_percent": round(100 * quiet / len(everything)),
        }

    def _quiet(self, sample: Sample) -> bool:
        return sample.busy <= QUIET * self.free


def measure(cases: Mapping[str, Case]) -> Samples:
    """Run the cases and an empty program in turns."""
    with _program(_EMPTY) as empty, _rulers() as rulers:
        everything = {"empty": Case(empty, _FRAME, _PASS), **cases}
        by_case: dict[str, list[Sample]] = {name: [] for name in everything}
        before = _read(*rulers)
        for _ in range(TURNS):
            for name, case in everything.items():
                result = case.program.test_run(case.frame, repeat=REPEAT)
                assert result.retval == case.verdict, f"{name}: {result.retval}"
                after = _read(*rulers)
                cycle = (before[0] + after[0]) / 2 / _MULTIPLICATIONS / _MULTIPLICATION_CYCLES
                busy = max(width / clock for clock, width in (before, after))
                by_case[name].append(Sample(result.duration_ns, cycle, busy))
                before = after
    return Samples(by_case)


def _read(clock: Program, width: Program) -> tuple[int, int]:
    """Nanoseconds of one run of each ruler."""
    return (
        clock.test_run(_FRAME, repeat=_RULER_REPEAT).duration_ns,
        width.test_run(_FRAME, repeat=_RULER_REPEAT).duration_ns,
    )


@contextmanager
def _rulers() -> Iterator[tuple[Program, Program]]:
    multiply = 'asm volatile("%0 *= %0" : "+r"(a));' * _MULTIPLICATIONS
    add = "".join(f'asm volatile("%0 += 1" : "+r"({"abcde"[n % 5]}));' for n in range(_ADDITIONS))
    start = "__u64 a = ctx->ingress_ifindex, b = a, c = a, d = a, e = a;"
    end = "return a + b + c + d + e == 7 ? XDP_PASS : XDP_DROP;"
    with _program(f"{start}{multiply}{end}") as clock, _program(f"{start}{add}{end}") as width:
        yield clock, width


@contextmanager
def _program(body: str) -> Iterator[Program]:
    source = f'SEC("xdp") int measured(struct xdp_md *ctx) {{ {body} }}\n'
    with BpfObject.open(compile_c(HEADERS + source + LICENSE), "measured") as loaded:
        loaded.load()
        with loaded.programs["measured"].duplicate() as program:
            yield program

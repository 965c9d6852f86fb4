"""What Ginkgo's JSON report says of each spec that ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSED = "passed"
_TAIL_LINES = 60


@dataclass(frozen=True)
class Spec:
    """A spec that ran, or a part of the suite that failed around it.

    Attributes:
        name: its full name, without blanks at its end; of a part of the suite, what kind of part.
        state: Ginkgo's word: passed, failed, panicked, timedout, interrupted, aborted; or skipped, by itself,
            because the cluster is not what it needs.
        seconds: how long it took.
        message: why it failed, empty if it didn't.
        log: what it wrote.
    """

    name: str
    state: str
    seconds: float
    message: str
    log: str

    @property
    def passed(self) -> bool:
        """Whether it did."""
        return self.state == PASSED

    @property
    def account(self) -> str:
        """What a reader of its failure needs: why, and the end of its log."""
        tail = self.log.splitlines()[-_TAIL_LINES:]
        return "\n".join([f"{self.name}: {self.state} after {self.seconds:.0f} s", self.message, "", *tail])


def read(path: Path) -> list[Spec]:
    """The specs of a report that ran, in order; and parts of the suite, such as its set-up, that failed."""
    return [spec for suite in json.loads(path.read_bytes()) for spec in _of_suite(suite)]


def _of_suite(suite: Mapping[str, Any]) -> list[Spec]:
    specs = [_spec(each) for each in suite.get("SpecReports") or () if _ran(each)]
    return [spec for spec, is_part in specs if not (is_part and spec.passed)]


def _ran(told: Mapping[str, Any]) -> bool:
    """Whether it was chosen: one that was not is "skipped" too, but says nothing."""
    return told["State"] != "pending" and (told["State"] != "skipped" or bool(told.get("Failure")))


def _spec(told: Mapping[str, Any]) -> tuple[Spec, bool]:
    """A spec, and whether it is a part of the suite instead."""
    is_part = told["LeafNodeType"] != "It"
    texts = [*(told.get("ContainerHierarchyTexts") or ()), told["LeafNodeText"]]
    failure = told.get("Failure") or {}
    location = failure.get("Location") or {}
    where = f"{location['FileName']}:{location['LineNumber']}" if location.get("FileName") else ""
    message = "\n".join(filter(None, (failure.get("Message", ""), failure.get("ForwardedPanic", ""), where)))
    spec = Spec(
        name=told["LeafNodeType"] if is_part else " ".join(filter(None, texts)).strip(),
        state=told["State"],
        seconds=told["RunTime"] / 1e9,
        message=message,
        log=told.get("CapturedGinkgoWriterOutput", ""),
    )
    return spec, is_part

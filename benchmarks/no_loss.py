"""Packets lost while kubebee is killed and started, and while it exchanges code. Prints JSON. Needs root.

100,000 packets a second pass HostPolicy, ServiceLB and two programs of the user on a veth with native XDP.
Each run kills kubebee by SIGKILL, or edits both programs; then what was sent is compared with what each
stage counted, over all versions of it, and with what the node's network stack got. `lost` is the worst
of these, `outage` how long nothing of kubebee ran in user space.
"""

from __future__ import annotations

import time

from bench.report import Figure, Report
from bench.site import kubebee
from lab import Lab
from support.running import Running, wait_for
from support.stream import USERS, Stream, counted, delivered, runs, stage, whole_chain

RUNS = 9
RATE = 100_000
DOWN_SECONDS = 0.3


class Bench:
    """The chain, and counters before each run."""

    def __init__(self, lab: Lab, running: Running) -> None:
        self._lab = lab
        self._running = running
        self._version = 1
        self.outages: list[float] = []
        self.rates: list[float] = []

    def lost(self, disturb_by: str) -> int:
        """Packets lost in one run."""
        before = self._counters()
        with Stream(self._lab, RATE) as stream:
            if disturb_by == "kill":
                self._kill_and_restart()
            else:
                self._exchange()
        self.rates.append(stream.sent / stream.seconds)
        passed = {name: count - before[name] for name, count in self._counters().items()}
        return max(0, *(stream.sent - count for count in passed.values()))

    def _counters(self) -> dict[str, int]:
        time.sleep(0.05)  # the last batch is on its way
        found = {f"{name} counted": counted(self._lab, name) for name in USERS}
        return found | runs(self._lab) | {"delivered": delivered(self._lab)}

    def _kill_and_restart(self) -> None:
        adopted = self._adoptions()
        self._running.kill()
        start = time.perf_counter()
        time.sleep(DOWN_SECONDS)
        self._running.start()
        wait_for("adoption", lambda: self._adoptions() >= adopted + len(USERS))
        self.outages.append(time.perf_counter() - start)

    def _adoptions(self) -> int:
        events = [e for e in self._running.events() if e["name"] in USERS and "adopted" in e["message"]]
        return sum(e["count"] for e in events)

    def _exchange(self) -> None:
        self._version += 1
        edits = self._generation()
        for name in USERS:
            self._running.apply(stage(name, self._version))
        wait_for("the new version", lambda: self._generation() >= edits + len(USERS))

    def _generation(self) -> int:
        status = [self._running.status("BpfProgram", name) for name in USERS]
        return sum(one.generation for one in status if one.ready)


def main() -> None:
    aim = "0 lost of 100,000 packets/s through the whole chain, over kill -9 and over replacement in place"
    report = Report("no_loss", aim, RUNS)
    with kubebee() as (lab, running):
        running.start()
        whole_chain(running)
        bench = Bench(lab, running)
        killed = [bench.lost("kill") for _ in range(RUNS)]
        replaced = [bench.lost("replace") for _ in range(RUNS)]
    report.figures = {
        "lost_by_kill_and_restart": Figure("packets", killed, 0),
        "lost_by_replacement": Figure("packets", replaced, 0),
        "outage_of_user_space": Figure("s", bench.outages),
        "rate": Figure("packets/s", bench.rates),
    }
    report.notes["worst_lost"] = max(*killed, *replaced)
    report.print()


if __name__ == "__main__":
    main()

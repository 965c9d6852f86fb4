"""Traffic of the quickstart: what clients of the load balancer do, and what the policy must stop."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lab.topology import BACKENDS, NODE, NODE_PORT, SERVICE, VIP, Lab
from lab.traffic import http_get, is_denied, udp_ask

WEB_PORT = 80
BACKEND_PORT = 8080
NAME_PORT = 53
_WEB_PAUSE_S = 0.05
_OTHER_PAUSE_S = 0.5


class Requests:
    """Sends requests from the lab's client until the block ends, and counts what came of them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._by_service: dict[str, Counter[str]] = {"HTTP": Counter(), "UDP": Counter()}
        self._threads = [
            threading.Thread(target=self._repeat, args=args, daemon=True)
            for args in (
                (self._web, _WEB_PAUSE_S),
                (self._service_http, _WEB_PAUSE_S),
                (self._service_udp, _WEB_PAUSE_S),
                (self._past_policy, _OTHER_PAUSE_S),
                (self._around_the_balancer, _OTHER_PAUSE_S),
                (self._on_the_node, _OTHER_PAUSE_S),
            )
        ]

    @property
    def answered(self) -> dict[str, int]:
        """Requests through the load balancer that each backend answered."""
        with self._lock:
            return {name: self._counts[name] for name in BACKENDS}

    @property
    def by_service(self) -> dict[str, dict[str, int]]:
        """Requests to the Service that each backend answered, by how they were sent."""
        with self._lock:
            return {
                how: {name: counts[name] for name in BACKENDS} for how, counts in self._by_service.items()
            }

    @property
    def failed(self) -> int:
        """Requests through the load balancer, to the Service too, that nobody answered."""
        with self._lock:
            return self._counts["failed"]

    @property
    def denied(self) -> int:
        """Connections that policy had to stop, and did."""
        with self._lock:
            return self._counts["denied"]

    @property
    def let_in(self) -> int:
        """Connections that policy had to stop, and did not."""
        with self._lock:
            return self._counts["let in"]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, once: Callable[[], None], pause: float) -> None:
        once()
        while not self._stop.wait(pause):
            once()

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _web(self) -> None:
        try:
            self._count(http_get(self._lab.client, VIP, WEB_PORT))
        except OSError:
            self._count("failed")

    def _service_http(self) -> None:
        self._to_service("HTTP", lambda: http_get(self._lab.client, SERVICE, WEB_PORT))

    def _service_udp(self) -> None:
        """A datagram and its answer, as names are looked up."""
        self._to_service("UDP", lambda: udp_ask(self._lab.client, SERVICE, NAME_PORT))

    def _to_service(self, how: str, ask: Callable[[], str]) -> None:
        try:
            name = ask()
        except OSError:
            self._count("failed")
            return
        with self._lock:
            self._by_service[how][name] += 1

    def _past_policy(self) -> None:
        self._count("denied" if is_denied(self._lab.client, NODE, NODE_PORT) else "let in")

    def _around_the_balancer(self) -> None:
        """Traffic that the node only forwards: what programs behind the load balancer get to see."""
        with contextlib.suppress(OSError):
            http_get(self._lab.client, BACKENDS["backend1"], BACKEND_PORT)

    def _on_the_node(self) -> None:
        """A process of the node connects to the virtual address: one more program executed, one socket."""
        self._lab.on_node("timeout", "1", "bash", "-c", f": </dev/tcp/{VIP}/{WEB_PORT}", check=False)

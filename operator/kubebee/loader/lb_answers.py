"""Answers on healthzPort and on healthCheckNodePorts of Services."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from kubebee.lb.health import answers
from kubebee.lb.health.answers import Answer, Condition
from kubebee.lb.health.listeners import Listeners
from kubebee.lb.services.frontends import HealthCheck


class LbAnswers:
    """Listens where it is asked to, and answers by what is known then.

    Args:
        condition: of the load balancer.
    """

    def __init__(self, condition: Callable[[], Condition]) -> None:
        self._condition = condition
        self._healthz: frozenset[int] = frozenset()
        self._services: dict[int, list[HealthCheck]] = {}
        self._listeners = Listeners(self._answer)

    async def run(self) -> None:
        """Try ports that can't be had again until cancelled, and then stop listening."""
        await self._listeners.run()

    def follow(self, healthz: Iterable[int], checks: Iterable[HealthCheck]) -> None:
        """Answer on these ports from now on. A port of both kinds answers for the node."""
        self._healthz = frozenset(healthz)
        self._services = {}
        for check in checks:
            self._services.setdefault(check.port, []).append(check)
        self._listeners.want(self._healthz | self._services.keys())

    def holds(self, port: int) -> bool:
        """Whether it is this process that listens on a port."""
        return self._listeners.holds(port)

    def news(self) -> Iterator[str]:
        """What ports can't be had, each said once."""
        for port, why in self._listeners.news().items():
            named = [f"{check.namespace}/{check.name}" for check in self._services.get(port, ())]
            whose = "healthzPort" if port in self._healthz else f"healthCheckNodePort of {', '.join(named)}"
            yield f"port {port}, {whose}, can't be listened on and is tried again: {why}"

    def _answer(self, port: int, path: str) -> Answer:
        now = time.time()
        if port in self._healthz or port not in self._services:
            return answers.healthz(path, self._condition(), now)
        return answers.of_service(self._services[port], self._condition())

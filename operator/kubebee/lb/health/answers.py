"""What load balancers and operators are told, in the words of kube-proxy (and KEP-3836)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple

from kubebee.lb.services.frontends import HealthCheck


class Condition(NamedTuple):
    """How the load balancer of this node is.

    Attributes:
        why: what is wrong with it, "" if it serves and follows all changes.
        updated: seconds since 1970 when it was last brought up to date, 0 if never.
        eligible: whether balancers in front of the node may send it new connections.
    """

    why: str
    updated: float
    eligible: bool = True


class Answer(NamedTuple):
    """An HTTP answer in JSON."""

    status: HTTPStatus
    content: Mapping[str, object]
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, *, body: bool = True) -> bytes:
        """The bytes on the wire; a HEAD gets none of the body."""
        text = json.dumps(self.content).encode() + b"\n"
        headers = (
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
            *self.headers,
            ("Content-Length", str(len(text))),
            ("Connection", "close"),
        )
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", *(f"{k}: {v}" for k, v in headers)]
        return "\r\n".join([*lines, "", ""]).encode() + (text if body else b"")


def healthz(path: str, condition: Condition, now: float) -> Answer:
    """Of the node: /healthz is for balancers in front of it, /livez for who would restart us."""
    if path not in ("/healthz", "/livez"):
        return Answer(HTTPStatus.NOT_FOUND, {"error": "there is /healthz and /livez"})
    well = not condition.why and (condition.eligible or path == "/livez")
    content: dict[str, object] = {
        "lastUpdated": _text(condition.updated if condition.why else now),
        "currentTime": _text(now),
        "nodeEligible": condition.eligible,
    }
    if condition.why:
        content["message"] = condition.why
    return Answer(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, content)


def of_service(checks: Sequence[HealthCheck], condition: Condition) -> Answer:
    """Of a Service with a healthCheckNodePort, on any path: whether this node has endpoints of it.

    Args:
        checks: those of the port, which the cluster gives to one Service.
        condition: of the load balancer: without it endpoints are of no use.
    """
    check = checks[0]
    well = check.endpoints > 0 and not condition.why
    content = {
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": check.endpoints,
        "serviceProxyHealthy": not condition.why,
    }
    weight = ("X-Load-Balancing-Endpoint-Weight", str(check.endpoints))
    return Answer(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, content, (weight,))


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()

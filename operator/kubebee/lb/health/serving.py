"""What a frontend's tables hold while some of its backends fail their checks."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from kubebee.lb.model import Backend, Frontend, Protocol


def without(frontend: Frontend, down: Set[Backend]) -> Frontend:
    """The frontend without new connections to some of its backends.

    A TCP backend has weight 0 instead, so that connections it has go on: a server may fail its check and
    still serve them. A UDP backend is left out: its clients have to leave it, as nothing tells them to.
    If all that could serve are down, all serve: the checks may be wrong, and nothing is lost by trying.
    """
    if not down or all_down(frontend, down):
        return frontend
    if frontend.key.protocol is Protocol.UDP:
        return replace(frontend, backends=tuple(one for one in frontend.backends if one not in down))
    backends = tuple(one._replace(weight=0) if one in down else one for one in frontend.backends)
    return replace(frontend, backends=backends)


def all_down(frontend: Frontend, down: Set[Backend]) -> bool:
    """Whether no backend is left that new connections could go to."""
    return all(backend in down for backend in frontend.backends if backend.weight)

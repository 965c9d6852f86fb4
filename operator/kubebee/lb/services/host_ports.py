"""Host ports of the node's pods to frontends, beside those of Services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubebee.lb.model import Backend, Frontend, FrontendKey, Reserved
from kubebee.lb.services.claims import Claimant, Claims, Name
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.frontends import LOOPBACKS, Claim, Rank
from kubebee.lb.services.pods import HostPort, Pod
from kubebee.lb.services.wanted import ServicesWanted


class HostPorts:
    """Pods of this node and the host ports that they claim.

    Attributes:
        synced: all pods of the node have been put in at least once.
        count: of host ports that are claimed.

    Args:
        claims: where those of Services are, too.
    """

    def __init__(self, claims: Claims) -> None:
        self.synced = False
        self.count = 0
        self._claims = claims
        self._pods: dict[Name, Pod] = {}
        self._placed: dict[Name, tuple[Claim, ...]] = {}
        self._dirty: set[Name] = set()

    def put(self, name: Name, pod: Pod | None) -> None:
        """A pod as it is now; None: it is gone, or has no host port."""
        if self._pods.get(name) == pod:
            return
        if pod is None:
            del self._pods[name]
        else:
            self._pods[name] = pod
        self._dirty.add(name)

    def all_dirty(self) -> None:
        """Look at all of them anew at the next refresh."""
        self._dirty |= self._pods.keys() | self._placed.keys()

    def refresh(self, facts: NodeFacts, wanted: ServicesWanted) -> bool:
        """Bring the claims up to date; returns whether a frontend changed."""
        changed = False
        for name in sorted(self._dirty):
            pod, before = self._pods.get(name), self._placed.pop(name, ())
            after = claims_of(name, pod, facts) if pod and wanted.serves_host_ports(name[0]) else ()
            created = pod.created if pod else ""
            changed |= self._claims.place(_claimant(name), created, before, after)
            self.count += len(_ports(after)) - len(_ports(before))
            if after:
                self._placed[name] = after
        self._dirty.clear()
        return changed

    def warnings(self) -> Iterator[tuple[str, str]]:
        """What of pods that are served can't be acted on."""
        for name in sorted(self._pods.keys() & self._placed.keys()):
            for text in self._pods[name].warnings:
                yield f"Pod {'/'.join(name)}", text


def _claimant(name: Name) -> Claimant:
    return (*name, "Pod")


def _ports(claims: Iterable[Claim]) -> set[str]:
    return {f"{claim.frontend.owner}/{claim.frontend.key.protocol}" for claim in claims}


def claims_of(name: Name, pod: Pod, facts: NodeFacts) -> tuple[Claim, ...]:
    """The frontends that a pod's host ports come to."""
    rank = Rank.HOST_PORT_ENDING if pod.ending else Rank.HOST_PORT
    claims: dict[FrontendKey, Claim] = {}
    for port in pod.ports:
        for target in pod.addresses:
            for frontend in _frontends("/".join(name), port, target, facts):
                claims.setdefault(frontend.key, Claim(rank, frontend))
    return tuple(claims.values())


def _frontends(name: str, port: HostPort, target: bytes, facts: NodeFacts) -> Iterator[Frontend]:
    """Those of one family: the target's."""
    length, address = len(target), port.address

    def frontend(at: bytes, *, local: bool = False, reserved: Reserved = Reserved.NOTHING) -> Frontend:
        return Frontend(
            key=FrontendKey(at, port.port, port.protocol),
            backends=(Backend(target, port.target),),
            sockets_only=local,
            reserved=reserved,
            owner=f"Pod/{name}:{port.name}",
        )

    if any(address):
        if len(address) == length:
            yield frontend(address, local=_is_loopback(address), reserved=Reserved.PLACE)
    elif len(address) in (0, length):
        for own in facts.addresses:
            if len(own) == length:
                yield frontend(own)
        yield frontend(LOOPBACKS[length], local=True, reserved=Reserved.PORT)


def _is_loopback(address: bytes) -> bool:
    return address == LOOPBACKS[16] or (len(address) == 4 and address[0] == LOOPBACKS[4][0])

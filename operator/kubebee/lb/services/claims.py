"""Who serves an address and port where several ask for it, and what all frontends need together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from kubebee.lb.family import FAMILIES, family_of
from kubebee.lb.model import Forwarding, Frontend, FrontendKey
from kubebee.lb.services.frontends import Claim, Rank
from kubebee.lb.sizes import Need, Needs, need_of

Name = tuple[str, str]
"""Namespace and name of a Service or a pod."""

Claimant = tuple[str, ...]
"""A Service by its name; a pod by its name and one word more, so that it is none of the same name."""


class Precedence(NamedTuple):
    """The least has the key: by rank, then the older, then by name."""

    rank: Rank
    created: str
    name: Claimant


class LeftOut(NamedTuple):
    """A frontend that is not served, because `holder` has its address and port."""

    owner: str
    key: FrontendKey
    holder: str

    def __str__(self) -> str:
        return f"{self.owner}: {self.key} is already served for {self.holder}"


class Shape(NamedTuple):
    """What the datapath has to be for the frontends: what only a new one can change.

    Attributes:
        needs: what they occupy.
        dsr: ways of it by which some are forwarded.
        affinity: whether clients of some come back to the backend they had.
    """

    needs: Needs = Needs()
    dsr: frozenset[Forwarding] = frozenset()
    affinity: bool = False

    def covering(self, other: Shape) -> Shape:
        """One that both fit into with room to grow: it changes rarely, and never becomes less.

        Needs are powers of two, and at least half as much again as what there is: maps may be made half as
        large as is asked for, and a new table lies beside the one it replaces.
        """
        families = zip(self.needs, other.needs, strict=True)
        needs = Needs(*(_covering(mine, its) for mine, its in families))
        return Shape(needs, self.dsr | other.dsr, self.affinity or other.affinity)


_FEW = Need(1024, 8192, 8192, 2048)
"""What fits into the smallest maps that there are (lb/sizes.py)."""


def _covering(mine: Need, its: Need) -> Need:
    if not its.frontends:
        return mine
    room = (1 << (entries * 3 // 2).bit_length() for entries in its)
    return Need(*map(max, mine, room, _FEW))


class Claims:
    """Claims of Services and pods to addresses and ports.

    Attributes:
        addresses: of frontends that packets from outside may be for, each with its number of frontends.

    Args:
        frontends: is kept up to date.
    """

    def __init__(self, frontends: dict[FrontendKey, Frontend]) -> None:
        self.addresses: Counter[bytes] = Counter()
        self._frontends = frontends
        self._holders: dict[FrontendKey, Precedence] = {}
        self._contests: dict[FrontendKey, dict[Claimant, tuple[Precedence, Frontend]]] = {}
        self._needs = {family: Need() for family in FAMILIES}
        self._dsr: Counter[Forwarding] = Counter()
        self._affine = 0

    def place(self, name: Claimant, created: str, before: Iterable[Claim], after: Iterable[Claim]) -> bool:
        """Exchange somebody's claims; returns whether a frontend changed.

        Args:
            name: whose.
            created: RFC 3339.
            before: the claims at the last call.
            after: those from now on.
        """
        changed = False
        wanted = {claim.frontend.key: claim for claim in after}
        for claim in before:
            if claim.frontend.key not in wanted:
                changed |= self._withdraw(claim.frontend.key, name)
        for key, claim in wanted.items():
            changed |= self._claim(key, Precedence(claim.rank, created, name), claim.frontend)
        return changed

    def _claim(self, key: FrontendKey, precedence: Precedence, frontend: Frontend) -> bool:
        holder, contest = self._holders.get(key), self._contests.get(key)
        if contest is None:
            if holder is None or holder.name == precedence.name:
                return self._hold(key, precedence, frontend)
            contest = self._contests[key] = {holder.name: (holder, self._frontends[key])}
        contest[precedence.name] = (precedence, frontend)
        return self._hold(key, *min(contest.values(), key=_precedence))

    def _withdraw(self, key: FrontendKey, name: Claimant) -> bool:
        contest = self._contests.get(key)
        if contest is None:
            del self._holders[key]
            self._count(self._frontends.pop(key), -1)
            return True
        del contest[name]
        if len(contest) == 1:
            del self._contests[key]
        return self._hold(key, *min(contest.values(), key=_precedence))

    def _hold(self, key: FrontendKey, precedence: Precedence, frontend: Frontend) -> bool:
        known, holder = self._frontends.get(key), self._holders.get(key)
        self._holders[key] = precedence
        if known == frontend and holder is not None and holder.name == precedence.name:
            return False
        if known is not None:
            self._count(known, -1)
        self._frontends[key] = frontend
        self._count(frontend, 1)
        return True

    def _count(self, frontend: Frontend, sign: int) -> None:
        address = frontend.key.address
        family, its = family_of(address), need_of((frontend,))
        summed = (mine + sign * more for mine, more in zip(self._needs[family], its, strict=True))
        self._needs[family] = Need(*summed)
        if frontend.forwarding.is_dsr:
            self._dsr[frontend.forwarding] += sign
        self._affine += sign * bool(frontend.affinity_seconds)
        if not frontend.sockets_only:
            self.addresses[address] += sign
            if not self.addresses[address]:
                del self.addresses[address]

    @property
    def shape(self) -> Shape:
        """What the datapath needs for the frontends."""
        return Shape(Needs(*self._needs.values()), frozenset(+self._dsr), self._affine > 0)

    @property
    def lost(self) -> int:
        """How many claims are not served."""
        return sum(map(len, self._contests.values())) - len(self._contests)

    def left_out(self) -> list[LeftOut]:
        """Frontends of those that lost."""
        return [
            LeftOut(frontend.owner, key, self._frontends[key].owner)
            for key, contest in self._contests.items()
            for precedence, frontend in contest.values()
            if precedence.name != self._holders[key].name
        ]


def _precedence(entry: tuple[Precedence, Frontend]) -> Precedence:
    return entry[0]

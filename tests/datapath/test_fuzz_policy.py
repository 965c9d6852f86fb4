"""HostPolicy against a model: random policies, random frames, equal verdicts, counters and drop reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kubebee.policy.compile import BUILTIN, DEFAULT
from kubebee.policy.model import (
    Action,
    Failsafe,
    L4Match,
    Policy,
    PolicyRule,
    PortRange,
    Source,
    in_order,
)
from support.frames import ICMP, TCP, UDP, Frames, Ip, Unread, read
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

pytestmark = pytest.mark.root

FRAMES = 500
HOST, OTHER = "192.0.2.1", "192.0.2.77"
NETWORKS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.128/25", "10.1.2.200/32")
SOURCES = ("10.0.0.1", "10.1.0.1", "10.1.2.1", "10.1.2.129", "10.1.2.200", "198.51.100.9", "0.0.0.0")  # noqa: S104
TARGETS = (HOST, HOST, HOST, HOST, OTHER, "255.255.255.255", "224.0.0.251", "127.0.0.1", "0.0.0.0")  # noqa: S104
PORTS = (0, 22, 79, 80, 81, 443, 8080, 65535)
FAILSAFE = Failsafe((L4Match(TCP, (PortRange(22, 22),)), L4Match(2)))


def addresses(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(int(IPv4Address(text)) for text in texts)


@st.composite
def port_ranges(draw: st.DrawFn) -> PortRange:
    first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    return PortRange(first, last)


@st.composite
def sources(draw: st.DrawFn) -> Source:
    network = IPv4Network(draw(st.sampled_from(NETWORKS)))
    inside = [text for text in NETWORKS if IPv4Network(text).subnet_of(network)]
    excepts = draw(st.lists(st.sampled_from(inside), max_size=2, unique=True))
    return Source(network, tuple(IPv4Network(text) for text in excepts))


matches = st.one_of(
    st.builds(L4Match, st.sampled_from((TCP, UDP)), st.lists(port_ranges(), max_size=3).map(tuple)),
    st.builds(L4Match, st.sampled_from((ICMP, 2, 47, 132))),
    st.builds(
        lambda kind, code: L4Match(ICMP, icmp_type=kind, icmp_code=code),
        st.sampled_from((0, 3, 8)),
        st.sampled_from((None, 0, 4)),
    ),
)


@st.composite
def policies(draw: st.DrawFn) -> list[Policy]:
    return [
        Policy(
            name,
            draw(st.integers(0, 2)),
            tuple(
                PolicyRule(
                    f"r{index}",
                    draw(st.sampled_from(Action)),
                    tuple(draw(st.lists(sources(), max_size=2))),
                    tuple(draw(st.lists(matches, max_size=3))),
                )
                for index in range(draw(st.integers(0, 6)))
            ),
            draw(st.sampled_from(Action)),
            draw(st.booleans()),
        )
        for name in draw(st.lists(st.sampled_from("abc"), max_size=3, unique=True))
    ]


@dataclass
class Model:
    """What the documentation says, one rule after the other."""

    policies: list[Policy]
    hits: Counter[str] = field(default_factory=Counter)
    audited: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    datagrams: dict[tuple[int, int, int, int], str] = field(default_factory=dict)

    def verdict(self, frame: bytes) -> int:
        enforced = any(not policy.audit for policy in self.policies)
        packet = read(frame)
        if isinstance(packet, Unread):
            return self._drop(packet.why) if packet.why and enforced else CONTINUE
        if packet.target not in LOCAL and packet.target >> 28 < 0xE and packet.target >> 24 not in (0, 127):
            return CONTINUE
        datagram = (packet.source, packet.target, packet.identification, packet.protocol)
        if packet.offset:
            if datagram in self.datagrams:
                self.hits[self.datagrams[datagram]] += 1
                return CONTINUE
        elif packet.l4_has < {TCP: 20, UDP: 8, ICMP: 8}.get(packet.protocol, 0):
            return self._drop("truncated") if enforced else CONTINUE

        if any(policy.audit for policy in self.policies):
            name, _, audit = self._first(frame, packet, self.policies, audit_default=True)
            if audit:
                self.audited[name] += 1
        name, action, _ = self._first(frame, packet, [p for p in self.policies if not p.audit])
        self.hits[name] += 1
        if action is Action.DENY:
            by_default = name.endswith(DEFAULT)
            reason = "fragment" if packet.offset else "policy_default" if by_default else "policy_rule"
            return self._drop(reason)
        if packet.more and not packet.offset and self.policies:
            self.datagrams[datagram] = name
        return CONTINUE

    def _drop(self, reason: str) -> int:
        self.drops[reason] += 1
        return DROP

    def _first(
        self, frame: bytes, packet: Ip, policies: list[Policy], *, audit_default: bool = False
    ) -> tuple[str, Action, bool]:
        """Name and action of the first rule that matches, and whether it is an audited one."""
        failsafe = PolicyRule("failsafe", Action.ALLOW, protocols=FAILSAFE.protocols)
        reply = PolicyRule("icmp-echo-reply", Action.ALLOW, protocols=(L4Match(ICMP, icmp_type=0),))
        ordered = in_order(policies)
        rules = [(BUILTIN, failsafe, False)]
        rules += [(policy.name, rule, policy.audit) for policy in ordered for rule in policy.rules]
        rules += [(BUILTIN, reply, False)]
        for owner, rule, audit in rules:
            if matches_rule(frame, packet, rule):
                return f"{owner}/{rule.name}", rule.action, audit
        for policy in ordered:
            if policy.default is Action.DENY and policy.audit == audit_default:
                return f"{policy.name}/{DEFAULT}", Action.DENY, policy.audit
        return f"{BUILTIN}/{DEFAULT}", Action.ALLOW, False


def matches_rule(frame: bytes, packet: Ip, rule: PolicyRule) -> bool:
    source = IPv4Address(packet.source)
    from_one = not rule.sources or any(
        source in one.network and not any(source in part for part in one.excepts) for one in rule.sources
    )
    return from_one and (
        not rule.protocols or any(matches_l4(frame, packet, rule.action, one) for one in rule.protocols)
    )


def matches_l4(frame: bytes, packet: Ip, action: Action, match: L4Match) -> bool:
    if match.protocol != packet.protocol:
        return False
    if match.whole_protocol:
        return True
    if packet.offset:
        return action is Action.DENY
    if match.icmp_type is not None:
        kind, code = frame[packet.l4 : packet.l4 + 2]
        return kind == match.icmp_type and match.icmp_code in (None, code)
    port = int.from_bytes(frame[packet.l4 + 2 : packet.l4 + 4])
    return any(ports.first <= port <= ports.last for ports in match.ports)


LOCAL = frozenset(addresses([HOST]))


@pytest.fixture(scope="module")
def host() -> Iterator[Firewall]:
    with firewall(HOST) as loaded:
        yield loaded


@settings(
    max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate]
)  # shrinking takes minutes
@given(policies=policies(), seed=st.integers(0, 1 << 32))
def test_every_frame_meets_the_rule_that_the_model_finds(
    host: Firewall, policies: list[Policy], seed: int
) -> None:
    for datagram, _ in host.maps["kb_p_fragments"].items():
        host.maps["kb_p_fragments"].delete(datagram)
    host.enforce(failsafe=FAILSAFE)  # counters of rules that come back start at 0
    host.enforce(*policies, failsafe=FAILSAFE)
    hits, drops, model = host.hits(), host.drops(), Model(policies)
    frames = Frames(Random(seed), addresses(SOURCES), addresses(TARGETS), PORTS)
    for _ in range(FRAMES):
        frame = frames.one()
        expected = model.verdict(frame)
        run = host.program.test_run(frame)
        assert (run.retval, run.data) == (expected, frame), frame.hex()

    before = {name: counts for name, counts in hits.items() if name.startswith(BUILTIN)}
    counted = Counter[str]()
    audited = Counter[str]()
    for name, (packets, audit) in host.hits().items():
        counted[name] = packets - before.get(name, (0, 0))[0]
        audited[name] = audit - before.get(name, (0, 0))[1]
    assert +counted == +model.hits
    assert +audited == +model.audited
    assert Counter(host.drops()) - Counter(drops) == +model.drops

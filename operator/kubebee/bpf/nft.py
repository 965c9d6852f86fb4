"""nftables by netlink: which tables, chains and jumps there are, and their removal.

Raw, so that the loader needs no program of nftables. Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kubebee.bpf.conntrack import NETLINK_NETFILTER
from kubebee.bpf.netlink import attributes, dump, messages, pack_attribute, pack_message
from kubebee.bpf.syscall import BpfError

_NFGENMSG = struct.Struct(">BBH")  # family, version, resource
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _GET_TABLE, _DEL_TABLE = (_SUBSYSTEM << 8 | kind for kind in (0, 1, 2))
_NEW_CHAIN, _GET_CHAIN, _DEL_CHAIN = (_SUBSYSTEM << 8 | kind for kind in (3, 4, 5))
_NEW_RULE, _GET_RULE, _DEL_RULE = (_SUBSYSTEM << 8 | kind for kind in (6, 7, 8))
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 3, 4, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_PREROUTING, _PRIORITY_DSTNAT = 0, -100
_LIST_ELEMENT, _CT_REGISTER, _CT_KEY, _CT_STATE = 1, 1, 2, 0
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
_NESTED = 0x8000
_EXPR_NAME, _EXPR_DATA, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CHAIN = 1, 2, 2, 2, 2
_NLM_F_ACK, _NLM_F_CREATE = 0x4, 0x400
_NLMSG_ERROR = 2
_AT_ONCE = 200
"""Changes of one transaction: their answers must fit the socket's buffer."""
_RTA = struct.Struct("=HH")

FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Chain(NamedTuple):
    """A chain; `family` is socket.AF_INET or AF_INET6."""

    family: int
    table: str
    name: str


@dataclass(frozen=True, slots=True)
class Jump:
    """A rule that jumps or goes to another chain of its table."""

    chain: Chain
    handle: bytes
    to: str


def tables(family: int) -> list[str]:
    """Names of the tables of one family in this thread's network namespace.

    Raises:
        BpfError: the kernel has no nftables, or refuses.
    """
    found = _list(_GET_TABLE, family, _NEW_TABLE)
    return [_text(one[_TABLE_NAME]) for one in found if _TABLE_NAME in one]


def chains(family: int) -> list[Chain]:
    """All chains of one family.

    Raises:
        BpfError: as `tables`.
    """
    found = _list(_GET_CHAIN, family, _NEW_CHAIN)
    return [Chain(family, _text(one[_CHAIN_TABLE]), _text(one[_CHAIN_NAME])) for one in found]


def jumps(family: int) -> list[Jump]:
    """All rules of one family that lead to another chain.

    Raises:
        BpfError: as `tables`.
    """
    found = []
    for one in _list(_GET_RULE, family, _NEW_RULE):
        target = _target(one.get(_RULE_EXPRESSIONS, b""))
        if target:
            chain = Chain(family, _text(one[_RULE_TABLE]), _text(one[_RULE_CHAIN]))
            found.append(Jump(chain, one[_RULE_HANDLE], target))
    return found


def keep_translating(family: int, name: str) -> None:
    """Make a table that is a reason for the kernel to follow connections and to translate their packets.

    It goes on with those that it translates, whatever rule began that; but with the last chain of type nat of
    a family it takes away its hooks for that (nf_nat_unregister_fn), and with the last expression that asks
    for connections those that follow them (nf_ct_netns_put). This table has one of each, and decides nothing.

    Raises:
        BpfError: the kernel has no nftables, or refuses.
    """
    chain = Chain(family, name, "keep")
    hook = pack_attribute(_HOOK_NUMBER, _u32(_PREROUTING)) + pack_attribute(
        _HOOK_PRIORITY, struct.pack(">i", _PRIORITY_DSTNAT)
    )
    base = pack_attribute(_CHAIN_HOOK | _NESTED, hook) + pack_attribute(_CHAIN_TYPE, _string("nat"))
    state = pack_attribute(_CT_REGISTER, _u32(1)) + pack_attribute(_CT_KEY, _u32(_CT_STATE))
    expression = pack_attribute(_EXPR_NAME, _string("ct")) + pack_attribute(_EXPR_DATA | _NESTED, state)
    listed = pack_attribute(_LIST_ELEMENT | _NESTED, expression)
    changes = [
        (_NEW_TABLE, family, pack_attribute(_TABLE_NAME, _string(name))),
        (_NEW_CHAIN, family, _named(chain) + base),
        (_NEW_RULE, family, _of_chain(chain) + pack_attribute(_RULE_EXPRESSIONS | _NESTED, listed)),
    ]
    _change(changes, f"table {name}")


def delete_table(family: int, name: str) -> None:
    """Remove a table with all that is in it, at once.

    Raises:
        BpfError: it is not there, or belongs to a process that holds on to it.
    """
    _change([(_DEL_TABLE, family, pack_attribute(_TABLE_NAME, _string(name)))], f"table {name}")


def delete_rules(rules: Iterable[Jump]) -> None:
    """Remove rules.

    Raises:
        BpfError: one is not there.
    """
    changes = [
        (_DEL_RULE, rule.chain.family, _of_chain(rule.chain) + pack_attribute(_RULE_HANDLE, rule.handle))
        for rule in rules
    ]
    _change(changes, "rules")


def delete_chains(found: Sequence[Chain]) -> None:
    """Empty chains and remove them; they may lead to each other, and no other leads to them.

    Raises:
        BpfError: one is not there, or in use.
    """
    _change([(_DEL_RULE, chain.family, _of_chain(chain)) for chain in found], "rules of chains")
    _change([(_DEL_CHAIN, chain.family, _named(chain)) for chain in found], "chains")


def _named(chain: Chain) -> bytes:
    table, name = _string(chain.table), _string(chain.name)
    return pack_attribute(_CHAIN_TABLE, table) + pack_attribute(_CHAIN_NAME, name)


def _of_chain(chain: Chain) -> bytes:
    table, name = _string(chain.table), _string(chain.name)
    return pack_attribute(_RULE_TABLE, table) + pack_attribute(_RULE_CHAIN, name)


def _list(kind: int, family: int, answer: int) -> list[dict[int, bytes]]:
    header = _NFGENMSG.pack(family, 0, 0)
    found = dump(kind, header, answer, NETLINK_NETFILTER)
    return [attributes(one[_NFGENMSG.size :]) for one in found if one[0] == family]


def _target(expressions: bytes) -> str:
    """The chain that a rule's verdict names."""
    at = 0
    while at + _RTA.size <= len(expressions):
        length, _ = _RTA.unpack_from(expressions, at)
        if length < _RTA.size:
            break
        one = attributes(expressions[at + _RTA.size : at + length])
        if _text(one.get(_EXPR_NAME, b"")) == "immediate":
            data = attributes(attributes(one.get(_EXPR_DATA, b"")).get(_IMMEDIATE_DATA, b""))
            chain = attributes(data.get(_DATA_VERDICT, b"")).get(_VERDICT_CHAIN)
            if chain:
                return _text(chain)
        at += (length + 3) & ~3
    return ""


def _change(changes: Sequence[tuple[int, int, bytes]], what: str) -> None:
    """Make changes, some hundreds at a time; of those of one transaction all or none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.settimeout(10)
        for start in range(0, len(changes), _AT_ONCE):
            _transact(sock, changes[start : start + _AT_ONCE], what)


def _transact(sock: socket.socket, changes: Sequence[tuple[int, int, bytes]], what: str) -> None:
    around = _NFGENMSG.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM)
    parts = [pack_message(_BATCH_BEGIN, 0, 0, around)]
    for sequence, (kind, family, payload) in enumerate(changes, start=1):
        create = _NLM_F_CREATE if kind in (_NEW_TABLE, _NEW_CHAIN, _NEW_RULE) else 0
        parts.append(
            pack_message(kind, _NLM_F_ACK | create, sequence, _NFGENMSG.pack(family, 0, 0) + payload)
        )
    parts.append(pack_message(_BATCH_END, 0, len(changes) + 1, around))
    try:
        sock.sendto(b"".join(parts), (0, 0))
        for _ in range(len(changes)):
            (received,) = list(messages(sock.recv(1 << 16)))[:1]
            kind, _, content = received
            refused = -int(struct.unpack_from("=i", content)[0]) if kind == _NLMSG_ERROR else errno.EPROTO
            if refused:
                raise BpfError(f"nftables refuses to change {what}", refused)
    except OSError as error:
        raise BpfError("nftables takes no changes", error.errno or errno.EIO) from error


def _u32(number: int) -> bytes:
    return struct.pack(">I", number)


def _string(text: str) -> bytes:
    return text.encode() + b"\0"


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")

"""Frontends as people name them: an address with port, or what declared them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kubebee.errors import KubebeeError
from kubebee.lb.model import FrontendKey, LbModelError, Prefix, Protocol, parse_address
from kubebee.lb.reading import Shown, Tables

_END = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^\s:/]+))(?::(?P<port>\d+))?(?:/(?P<protocol>\w+))?")
_MAX_PORT = 0xFFFF


class FrontendNotFoundError(KubebeeError):
    """Nothing that is served has this name or address."""

    reason = "FrontendNotFound"


class EndError(KubebeeError):
    """A text is no address with port."""

    reason = "InvalidArgument"


@dataclass(frozen=True, slots=True)
class End:
    """An address, and what was said of port and protocol.

    Attributes:
        port: 0 = not said.
        protocol: None = not said.
    """

    address: bytes
    port: int = 0
    protocol: Protocol | None = None


def parse_end(text: str) -> End:
    """Read `192.0.2.7`, `192.0.2.7:80`, `[2001:db8::7]:80/TCP` or `2001:db8::7`.

    Raises:
        EndError: it is something else.
    """
    found = _END.fullmatch(text)
    try:
        if text.count(":") > 1 and not text.startswith("["):
            return End(parse_address(text))
        if found is None:
            raise ValueError(text)
        port = int(found["port"] or 0)
        protocol = Protocol[found["protocol"].upper()] if found["protocol"] else None
        if port > _MAX_PORT:
            raise ValueError(text)
        return End(parse_address(found["v6"] or found["v4"]), port, protocol)
    except (LbModelError, ValueError, KeyError) as error:
        raise EndError(
            f"{text!r} is no address with port",
            hint="write one as in 192.0.2.7:80, 192.0.2.7:53/UDP or [2001:db8::7]:80",
        ) from error


def parse_range(text: str) -> tuple[Prefix, int]:
    """Read an address, an address with port, or a range such as 192.0.2.0/24.

    Returns:
        The range, and the port; 0 = not said.

    Raises:
        EndError: it is something else.
    """
    address, _, length = text.rpartition("/")
    if address and length.isdecimal():
        start = parse_end(address)
        bits = 8 * len(start.address)
        if not start.port and int(length) <= bits:
            rest = bits - int(length)
            first = (int.from_bytes(start.address) >> rest << rest).to_bytes(len(start.address))
            return Prefix(first, int(length)), 0
    end = parse_end(text)
    return Prefix(end.address, 8 * len(end.address)), end.port


def names_of(name: str) -> Iterator[str]:
    """What a frontend may be called: "Service/shop/web:http" also shop/web:http and shop/web."""
    whole = name.partition("/")[2]
    for each in (name, whole):
        yield each
        yield each.rpartition(":")[0]


def find_frontends(every: Sequence[Tables], text: str) -> list[tuple[Tables, FrontendKey]]:
    """The frontends that a text means: several if a Service has several addresses or ports.

    Raises:
        FrontendNotFoundError: none.
    """
    found = list(_by_end(every, text)) or list(_by_name(every, text))
    if found:
        return found
    known = [str(key) for tables in every for key in tables.frontends]
    known += [name.partition("/")[2] for tables in every for name in tables.names.values()]
    close = difflib.get_close_matches(text, known, n=3)
    raise FrontendNotFoundError(
        f"no frontend is called {text!r}",
        hint=f"did you mean {' or '.join(close)}?" if close else "`kubebee lb list` shows all there are",
    )


def _by_end(every: Sequence[Tables], text: str) -> Iterator[tuple[Tables, FrontendKey]]:
    try:
        end = parse_end(text)
    except EndError:
        return
    for tables in every:
        for key in sorted(tables.frontends):
            same_port = end.port in (0, key.port)
            if key.address == end.address and same_port and end.protocol in (None, key.protocol):
                yield tables, key


def _by_name(every: Sequence[Tables], text: str) -> Iterator[tuple[Tables, FrontendKey]]:
    for tables in every:
        numbers = {number for number, name in tables.names.items() if text in names_of(name)}
        for key, value in sorted(tables.frontends.items()):
            if value.id in numbers:
                yield tables, key


def chosen(every: Sequence[Tables], texts: Sequence[str]) -> Iterator[tuple[Tables, list[Shown]]]:
    """Frontends by family: those that texts mean, or all.

    Raises:
        FrontendNotFoundError: a text means none.
    """
    found = [each for text in texts for each in find_frontends(every, text)]
    for tables in every:
        keys = {key for of, key in found if of is tables} if texts else tables.frontends.keys()
        if keys:
            yield tables, [tables.shown(key) for key in sorted(keys)]

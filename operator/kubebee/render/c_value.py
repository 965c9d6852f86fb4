"""What may pass from Jinja into C: the guard that every `{{ expression }}` goes through."""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Mapping, Sequence

from jinja2 import Undefined
from markupsafe import Markup

from kubebee.render.errors import RenderError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_INT64_MAX, _UINT64_MAX = (1 << 63) - 1, (1 << 64) - 1
_PRINTABLE = range(0x20, 0x7F)


class CIdent(str):
    """A C identifier, checked when made. Raises RenderError."""

    __slots__ = ()

    def __new__(cls, text: str) -> CIdent:
        """Check and make. Raises RenderError."""
        if not _IDENTIFIER.fullmatch(text):
            raise RenderError(f"{text!r} is not a C identifier", reason="TemplateValue")
        return super().__new__(cls, text)


class CString(str):
    """The text of a C string literal, quotes and escapes included; made by `c_string`."""

    __slots__ = ()


Scalar = bool | int | str | enum.Enum | ipaddress.IPv4Address | ipaddress.IPv6Address
RenderValue = Scalar | Sequence["RenderValue"] | Mapping[str, "RenderValue"]
"""What a context may hold. Only a `Scalar` can be printed; the others are for loops and conditions."""


def c_string(text: str) -> CString:
    """`text` as a C string literal of its UTF-8 bytes.

    Octal escapes end after three digits, so what follows cannot join them; `?` is one for trigraphs' sake.
    """
    plain = _PRINTABLE
    body = "".join(
        chr(byte) if byte in plain and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return CString(f'"{body}"')


def to_c(value: object) -> Markup:  # noqa: C901 - one case per type, flat
    """The C text of a printed value.

    int: decimal, negative ones in parentheses, ULL above 2^63 - 1. bool: 0 or 1. IPv4 address: an integer in
    host byte order (wrap it in bpf_htonl). IPv6 address: 16 bytes in braces, network order. str: only
    identifiers and c_string literals. Text made by the template's own macros passes.

    Raises:
        RenderError: any other value.
    """
    if isinstance(value, Markup):
        return value
    if isinstance(value, Undefined):
        str(value)  # StrictUndefined raises its own message, which names the variable
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool):
        return Markup(int(value))  # noqa: S704 - 0 or 1
    if isinstance(value, int):
        return Markup(_integer(value))  # noqa: S704 - digits
    if isinstance(value, ipaddress.IPv4Address):
        return Markup(f"0x{int(value):08x}")  # noqa: S704 - digits
    if isinstance(value, ipaddress.IPv6Address):
        return Markup("{%s}") % ", ".join(f"0x{byte:02x}" for byte in value.packed)
    if isinstance(value, CString):
        return Markup(value)  # noqa: S704 - escaped for C when made; HTML plays no part here
    if isinstance(value, str):
        try:
            return Markup(CIdent(value))  # noqa: S704 - an identifier has nothing to escape
        except RenderError:
            raise RenderError(
                f"{value[:60]!r} is not a C identifier",
                reason="TemplateValue",
                hint="write {{ value | cstring }} for a string literal",
            ) from None
    raise RenderError(f"a value of type {type(value).__name__} has no form in C", reason="TemplateValue")


def _integer(value: int) -> str:
    if not -_INT64_MAX <= value <= _UINT64_MAX:
        raise RenderError(f"{value.bit_length()}-bit integer does not fit 64 bits", reason="TemplateValue")
    if value < 0:
        return f"({value})"
    return f"{value}ULL" if value > _INT64_MAX else str(value)

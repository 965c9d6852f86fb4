"""Templates that users supply: sandboxed, in a process of their own that a deadline ends."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import resource
import select
import signal
import time
from collections.abc import Mapping
from typing import NoReturn

import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kubebee.render.c_value import RenderValue
from kubebee.render.environment import harden, render_text
from kubebee.render.errors import RenderError
from kubebee.render.source_map import MARKS, Rendered

MAX_OUTPUT_BYTES = 1 << 20
MAX_TEMPLATE_BYTES = 1 << 20
DEADLINE_SECONDS = 2.0
_MEMORY_BYTES = 512 << 20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class _Answer(msgspec.Struct):
    """What the child says: a rendering, or the parts of a RenderError."""

    rendered: Rendered | None = None
    message: str = ""
    reason: str = ""
    where: str = ""
    hint: str = ""


class _UserEnvironment(ImmutableSandboxedEnvironment):
    """Sandbox without any attribute that starts with an underscore and without string formatting."""

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        forbidden = attr.startswith("_") or attr in {"format", "format_map"}
        return not forbidden and super().is_safe_attribute(obj, attr, value)


def render_user(
    text: str,
    params: Mapping[str, RenderValue],
    name: str = "template",
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Rendered:
    """Render a user's template; blocks up to the deadline.

    The child is forked, not started: 5 ms instead of 150. It runs nothing but Jinja on plain data and leaves
    by _exit, so threads of the parent do not matter to it.

    Raises:
        RenderError: see its reasons; TemplateTimeout and TemplateTooLarge name the limit.
    """
    _refuse_bad_input(text, params, name)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _render_and_exit(text, params, name, writer)
    os.close(writer)
    try:
        content = _read(reader, deadline_seconds, name)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        answer = msgspec.msgpack.decode(content, type=_Answer)
    except msgspec.DecodeError:
        raise RenderError(
            f"rendering needs more than {_MEMORY_BYTES >> 20} MiB", reason="TemplateTooLarge", where=name
        ) from None
    if answer.rendered is None:
        raise RenderError(answer.message, reason=answer.reason, where=answer.where, hint=answer.hint)
    return answer.rendered


def _read(reader: int, seconds: float, name: str) -> bytes:
    """All that the child writes, until it ends."""
    content = bytearray()
    end = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise RenderError(
                f"the template did not finish within {seconds:g} s",
                reason="TemplateTimeout",
                where=name,
                hint="look for nested loops",
            )
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return bytes(content)
        content += chunk


def _render_and_exit(
    text: str, params: Mapping[str, RenderValue], name: str, writer: int
) -> NoReturn:  # pragma: no cover - runs in the forked child
    status = 1
    try:
        _limit_memory()
        answer = _answer(text, params, name)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(msgspec.msgpack.encode(answer))
        status = 0
    finally:
        # Neither the parent's exit handlers nor its buffers may run here.
        os._exit(status)


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - one read in a forked child
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES,) * 2)


def _answer(text: str, params: Mapping[str, RenderValue], name: str) -> _Answer:
    try:
        rendered = render_text(harden(_UserEnvironment()), text, params, name)
        if len(rendered.text) > MAX_OUTPUT_BYTES:
            raise RenderError(
                f"the template makes more than {MAX_OUTPUT_BYTES >> 10} KiB",
                reason="TemplateTooLarge",
                where=name,
            )
    except RenderError as error:
        return _Answer(message=error.message, reason=error.reason, where=error.where, hint=error.hint)
    return _Answer(rendered=rendered)


def _refuse_bad_input(text: str, params: Mapping[str, RenderValue], name: str) -> None:
    if len(text) > MAX_TEMPLATE_BYTES:
        raise RenderError(
            f"the template has {len(text)} characters, the limit is {MAX_TEMPLATE_BYTES}",
            reason="TemplateTooLarge",
            where=name,
        )
    for param, value in params.items():
        if not _NAME.fullmatch(param):
            raise RenderError(f"{param!r} is not a parameter name", where=name)
        _refuse_bad_value(param, value, name)


def _refuse_bad_value(param: str, value: RenderValue, name: str) -> None:
    if isinstance(value, str):
        if any(mark in value for mark in MARKS):
            raise RenderError("control characters", reason="TemplateValue", where=f"{name}: params.{param}")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_bad_value(param, item, name)
    elif not isinstance(value, bool | int | ipaddress.IPv4Address | ipaddress.IPv6Address):
        raise RenderError(
            f"type {type(value).__name__}; a parameter is an integer, bool, string, address or list of these",
            reason="TemplateValue",
            where=f"{name}: params.{param}",
        )

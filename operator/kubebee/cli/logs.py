"""The one logger set-up: JSON lines for machines, short lines on a terminal."""

from __future__ import annotations

import logging
import sys

import msgspec

_FIELDS = ("kind", "resource", "reason", "node")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {field: value for field in _FIELDS if (value := getattr(record, field, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _TerminalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        resource = getattr(record, "resource", "")
        reason = getattr(record, "reason", "")
        head = " ".join(part for part in (record.levelname.lower(), resource, reason) if part)
        text = f"{head}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(verbose: bool, style: str) -> None:
    """Log to standard error.

    Args:
        verbose: debug messages too.
        style: "json", "text", or "auto": text on a terminal.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler.setFormatter(_TerminalFormatter() if text else _JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("kopf").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)

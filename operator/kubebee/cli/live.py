"""Views that go on on a terminal, and the same as text elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

WIDTH_WITHOUT_TERMINAL = 120


def follow(look: Callable[[], RenderableType], seconds: float) -> None:
    """Show what `look` gives, anew after so many seconds, on a screen of its own until Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # restores the terminal too
    try:
        with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
            while True:
                live.update(look(), refresh=True)
                time.sleep(seconds)
    except KeyboardInterrupt:
        return


def as_text(shown: RenderableType) -> str:
    """Without a terminal there are no colours, and a width only if COLUMNS says so."""
    console = Console(highlight=False) if sys.stdout.isatty() else _plain_console()
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _plain_console() -> Console:
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else WIDTH_WITHOUT_TERMINAL
    return Console(highlight=False, width=width, color_system=None)

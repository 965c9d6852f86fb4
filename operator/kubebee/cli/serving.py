"""A process that serves until it is stopped, and never ends without a word."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

from kubebee.cli.exit_codes import Exit
from kubebee.errors import KubebeeError

log = logging.getLogger("kubebee.serving")


def until_stopped(serve: Callable[[threading.Event], Awaitable[None]]) -> None:
    """Serve until SIGTERM, SIGINT or a failure, and log which; a failure, of any thread, is exit status 1.

    Args:
        serve: works until the event that it is given.

    Raises:
        KubebeeError: what `serve` raised; `cli.failures` says it.
    """
    stop, failed = threading.Event(), threading.Event()

    def stop_for(number: signal.Signals) -> None:
        log.info("ending: %s", number.name)
        stop.set()

    def thread_failed(thread: threading.ExceptHookArgs) -> None:
        """It would go on as if nothing were, and be deaf or without its Lease."""
        name = thread.thread.name if thread.thread else "without name"
        log.critical("ending: thread %s failed", name, exc_info=thread.exc_value)
        failed.set()
        stop.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop_for, number)
        await serve(stop)

    threading.excepthook = thread_failed
    try:
        asyncio.run(main())
    except KubebeeError:
        raise
    except Exception:
        log.critical("ending: a fault of kubebee, please report it", exc_info=True)
        failed.set()
    if failed.is_set():
        sys.exit(Exit.ERROR)

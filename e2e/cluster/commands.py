"""Commands and conditions: run one and hear why it failed, wait for the other with a deadline."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cluster.errors import ClusterError

Done = subprocess.CompletedProcess[str]
_T = TypeVar("_T")
_POLL_S = 0.2
_SHOWN_CHARACTERS = 4000


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Done:
    """Run a command and wait for it.

    Args:
        argv: the command.
        check: whether an exit code other than 0 is an error.
        stdin: what it reads; nothing by default.
        timeout: seconds that it may take.
        env: its whole environment, if not ours.
        cwd: where it runs.

    Raises:
        ClusterError: it failed or took too long; has the end of what it said.
    """
    words = [str(word) for word in argv]
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        done: Done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=timeout, env=env, cwd=cwd, **source
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(words)}: not done after {timeout:.0f} s") from error
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]}: no such command", hint="python -m cluster prepare") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-_SHOWN_CHARACTERS:]
        raise ClusterError(f"{' '.join(words)}: exit code {done.returncode}: {said}")
    return done


def wait_until(
    condition: Callable[[], _T], what: str, within: float = 60, explain: Callable[[], str] | None = None
) -> _T:
    """Ask until the answer is true, and return it.

    Args:
        condition: asked again and again; a `ClusterError` in it counts as "not yet".
        what: the condition in words, for the error.
        within: seconds.
        explain: called when time is up: what a reader of the error needs to see.

    Raises:
        ClusterError: time is up; has the last error and the explanation.
    """
    deadline = time.monotonic() + within
    while True:
        why = ""
        try:
            answer = condition()
            if answer:
                return answer
        except ClusterError as error:
            why = str(error)
        if time.monotonic() > deadline:
            parts = [f"not within {within:.0f} s: {what}", why, explain() if explain else ""]
            raise ClusterError("\n".join(filter(None, parts)))
        time.sleep(_POLL_S)

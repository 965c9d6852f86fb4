"""What keeps an image from being built or compared."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_SHOWN_CHARACTERS = 4000


class ImageError(Exception):
    """A tool is missing, the build failed, or two builds differ; the message says which."""


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Output of a command.

    Args:
        argv: the command.
        timeout: seconds it may take.
        env: its whole environment, if not ours.
        cwd: where it runs.

    Raises:
        ImageError: it failed, took too long or is not installed; has the end of what it said.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{' '.join(words)}: not done after {timeout:.0f} s") from error
    except FileNotFoundError as error:
        raise ImageError(f"{words[0]}: no such command; python -m images build installs it") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-_SHOWN_CHARACTERS:]
        raise ImageError(f"{' '.join(words)}: exit code {done.returncode}: {said}")
    return done.stdout

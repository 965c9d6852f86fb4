"""What keeps Helm from being built or the chart from being rendered."""

from __future__ import annotations


class HelmError(Exception):
    """There is no Go, the build failed, or Helm refuses; the message has what it said."""

"""What the exit status of every verb means."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses, the same for all verbs; `kubebee --help` lists them."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_READY = 3
    ENVIRONMENT = 4


EXIT_HELP = """\b
Exit status:
  0  done; all that was looked at is well
  1  error
  2  wrong usage
  3  status, verify, crds --check: something is not ready, not valid or out of date;
     lb trace: the packet would be dropped or refused
  4  this machine can't do it: privilege, kernel, compiler or BPF file system is missing
"""

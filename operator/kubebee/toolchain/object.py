"""Objects that the user compiled: from base64 or a path on the node, checked by sha256."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from pathlib import Path

from kubebee.errors import KubebeeError

MAX_OBJECT_BYTES = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ELF_MAGIC = b"\x7fELF"


class ObjectError(KubebeeError):
    """A given object cannot be had or is not the one that was meant.

    Reasons: ObjectNotFound, ObjectTooLarge, ObjectInvalid, DigestMismatch.
    """

    reason = "ObjectInvalid"


def from_base64(text: str, sha256: str = "") -> bytes:
    """Decode and check an object; white space in `text` is ignored. Raises ObjectError."""
    where = "base64"
    if len(text) > MAX_OBJECT_BYTES * 4 // 3 + MAX_OBJECT_BYTES // 32:
        raise _too_large(where)
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ObjectError(f"not base64: {error}", where=where) from error
    return _checked(content, sha256, where)


def from_path(path: Path, sha256: str = "") -> bytes:
    """Read and check an object on this node; only regular files, so no device or pipe blocks us.

    Raises ObjectError.
    """
    where = str(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ObjectError("not a regular file", where=where)
            content = file.read(MAX_OBJECT_BYTES + 1)
    except OSError as error:
        raise ObjectError(
            f"{error.strerror} on this node",
            reason="ObjectNotFound",
            where=where,
            hint="the path is looked up on every node that the program is meant for",
        ) from error
    return _checked(content, sha256, where)


def _checked(content: bytes, sha256: str, where: str) -> bytes:
    if len(content) > MAX_OBJECT_BYTES:
        raise _too_large(where)
    if sha256:
        expected = sha256.removeprefix("sha256:").lower()
        if not _SHA256.fullmatch(expected):
            raise ObjectError(f"sha256 {sha256!r} is not 64 hexadecimal digits", where=where)
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise ObjectError(
                f"the object's sha256 is {actual}, not {expected}",
                reason="DigestMismatch",
                where=where,
                hint="rebuild the object or correct the digest",
            )
    if not content.startswith(_ELF_MAGIC):
        raise ObjectError("not an ELF file", where=where, hint="compile with clang -target bpf -c")
    return content


def _too_large(where: str) -> ObjectError:
    return ObjectError(
        f"the object has more than {MAX_OBJECT_BYTES >> 20} MiB",
        reason="ObjectTooLarge",
        where=where,
        hint="strip its DWARF: llvm-strip -g keeps BTF",
    )

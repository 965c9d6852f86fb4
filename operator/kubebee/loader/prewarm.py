"""Compiles in idle time what the next edit is likely to need: dispatchers of common shapes, vmlinux.h."""

from __future__ import annotations

from itertools import product

from kubebee.errors import KubebeeError
from kubebee.loader.chain import dispatcher_bundle
from kubebee.loader.compiled import Compiler
from kubebee.loader.placing import DEFAULT_MASK

MOST_BUILTIN = 2
MOST_USERS = 4


def common_shapes() -> list[tuple[int | None, ...]]:
    """Chains of up to two built-in stages and four user programs that go on after XDP_PASS."""
    return [
        (None,) * builtin + (DEFAULT_MASK,) * users
        for users, builtin in product(range(MOST_USERS + 1), range(MOST_BUILTIN + 1))
        if users + builtin
    ]


async def prewarm(compiler: Compiler) -> None:
    """Fill the compile cache, one thing at a time; without a compiler nothing happens."""
    try:
        for shape in common_shapes():
            await compiler.elf(dispatcher_bundle(shape))
        await compiler.prepare_headers()
    except KubebeeError:
        return  # said when a resource needs it

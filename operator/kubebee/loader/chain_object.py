"""The linked object of a chain, kept in the kernel beside its program.

The kernel gives back no text that could be loaded again. With the object at hand anyone can load the very
same code over maps of their own, and run it on a packet without touching what runs (`kubebee lb trace`).
"""

from __future__ import annotations

import zlib

import msgspec

from kubebee.bpf.constants import MapType
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError

NAME = "kb_object"
_VERSION = 1
_KEY_0 = bytes(4)


class ObjectUnreadableError(KubebeeError):
    """What is kept is not an object of a chain that this version understands."""

    reason = "ObjectUnreadable"


class KeptStage(msgspec.Struct, frozen=True):
    """A stage of the chain, in the order they run.

    Attributes:
        kind, unit: name of the unit that the function is of, when the chain was made.
        builtin: whether kubebee brings it, and so knows which of its maps it writes.
    """

    kind: str
    unit: str
    function: str
    builtin: bool


class KeptMap(msgspec.Struct, frozen=True):
    """A map that the chain shares with others.

    Attributes:
        linked: its name in the object.
        stage: index of the stage it belongs to.
        name: as the stage's source has it.
        id: of the map that the chain's program uses.
    """

    linked: str
    stage: int
    name: str
    id: int


class ChainObject(msgspec.Struct, frozen=True):
    """What a chain's program was loaded from.

    Attributes:
        entry: name of the program in the object.
        elf: the object, linked.
    """

    entry: str
    stages: tuple[KeptStage, ...]
    maps: tuple[KeptMap, ...]
    elf: bytes
    version: int = _VERSION


def keep(made_from: ChainObject) -> Map:
    """A new read-only map that holds the object; pin it, or it goes with its descriptor."""
    data = zlib.compress(msgspec.msgpack.encode(made_from))
    kept = Map.create(MapType.ARRAY, 4, len(data), 1, name=NAME)
    try:
        kept.update(_KEY_0, data)
        kept.freeze()
    except BaseException:
        kept.close()
        raise
    return kept


def read(kept: Map) -> ChainObject:
    """The object that a map of `keep` holds.

    Raises:
        ObjectUnreadableError: it holds something else.
        BpfError: the map can't be read.
    """
    data = kept.lookup(_KEY_0) or b""
    try:
        # An array's values are a multiple of 8 bytes long: what follows the stream is padding.
        found = msgspec.msgpack.decode(zlib.decompressobj().decompress(data), type=ChainObject)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ObjectUnreadableError(f"it holds no object: {error}", where=f"map {kept.info.id}") from error
    if found.version != _VERSION:
        raise ObjectUnreadableError(
            f"it was written by another version of kubebee (format {found.version}, not {_VERSION})",
            where=f"map {kept.info.id}",
            hint="use the kubebee that runs here",
        )
    return found

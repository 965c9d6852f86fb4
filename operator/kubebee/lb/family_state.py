"""Brings the maps of one family to what is desired, writing only what differs.

The maps are the state: a loader that starts adopts what it finds, and no file beside them is kept.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import compress
from operator import is_, is_not

from kubebee.bpf.map import Map
from kubebee.lb import layout, table_rows, tables
from kubebee.lb.family import Family
from kubebee.lb.grace import wait_for_readers
from kubebee.lb.here import forget_here, repair_here
from kubebee.lb.layout import BackendFlag, BackendValue, FrontendFlag, FrontendValue, NextHop, Stat
from kubebee.lb.members import Contents, Members
from kubebee.lb.model import Backend, Frontend, FrontendKey, LbModelError
from kubebee.lb.moving import Table
from kubebee.lb.own import OwnPlaces, Place
from kubebee.lb.placing import Places, has_tables, moved_table, places_from, read_table
from kubebee.lb.reports import SyncReport, Unserved
from kubebee.lb.served import Moving, Served, as_desired, flags_of
from kubebee.lb.sources import SourceRanges
from kubebee.lb.writer import TableWriter
from kubebee.names import NameTable

# Plain numbers: arithmetic of enums takes ten times as long, and there are 100,000 backends.
_USED, _GONE, _SOCKETS_ONLY = map(int, (BackendFlag.USED, BackendFlag.GONE, FrontendFlag.SOCKETS_ONLY))
_MOVING, _DSR = int(FrontendFlag.MOVING), int(FrontendFlag.DSR_IPIP)
_OPEN_DSR = int(FrontendFlag.DSR_IPIP | FrontendFlag.L2 | FrontendFlag.SOURCES | FrontendFlag.SOCKETS_ONLY)
"""Flags that tell whether a tunnel's packet for a frontend need be looked at: of these _DSR alone."""


Ahead = Callable[[set[bytes]], None]
"""Told of addresses before backends at them are written; it may set their next hops."""


class _NoRoomError(Exception):
    """A map has no room for a frontend; the text says which."""


class FamilyState:
    """What is in the maps of one family. One per set of maps, one writer."""

    def __init__(self, family: Family, frontends: int, rows: int, backends: int) -> None:
        """Describe empty maps. The sizes are entries of those of frontends, slots and backends."""
        self.family = family
        self.served: dict[FrontendKey, Served] = {}
        self.gone: dict[int, BackendValue] = {}
        self._returning: dict[tuple[int, bytes, int], int] = {}
        self._capacity = frontends
        self._addresses: set[bytes] = set()  # as written
        self._wanted_addresses: set[bytes] = set()
        self._doubtful_addresses = False
        self._space = tables.RowSpace(rows)
        self._frontend_ids = tables.NumberPool(frontends)
        self._backend_ids = tables.NumberPool(backends)
        self._retired: set[int] = set()  # ids of removed frontends that gone backends still refer to
        self._hops: dict[bytes, NextHop] = {}
        self.own = OwnPlaces(family)
        self._ranges = SourceRanges(0)
        self._names = NameTable()
        self._applied: Mapping[FrontendKey, Frontend] = {}
        """What the last apply() that served all was given."""
        self._clock = time.monotonic
        self._crowded = 0
        self._arrived: set[bytes] = set()
        self._left: dict[int, BackendValue] = {}

    @classmethod
    def adopt(cls, maps: Mapping[str, Map], family: Family) -> FamilyState:
        """Read the state from maps, new ones or an earlier loader's, and end what it left half done."""
        state, orphans = cls._read(maps, family)
        writer = TableWriter(maps, family)
        for number, value in orphans:
            state._retire(writer, number, value)
        served = {each.value.id for each in state.served.values()}
        state._ranges.forget_unknown(writer, served)
        state._names.forget(maps[family.names], state._names.written.keys() - served - state._retired)
        writer.flush()
        state.own.forget_earlier(maps)
        repair_here(maps, family, state._backends_at(a for a, hop in state._hops.items() if hop.is_local))
        return state

    @classmethod
    def observe(cls, maps: Mapping[str, Map], family: Family) -> FamilyState:
        """The state as the maps' writer has it, to look at only: nothing is written."""
        return cls._read(maps, family)[0]

    @classmethod
    def _read(
        cls, maps: Mapping[str, Map], family: Family
    ) -> tuple[FamilyState, list[tuple[int, BackendValue]]]:
        """The state, and backends without a frontend: it went, or its first write was cut short."""
        room = {name: maps[name].info.max_entries for name in family.map_names}
        frontends = min(room[family.frontends], room[family.frontend_counts])
        backends = min(room[family.backends], room[family.backend_counts])
        state = cls(family, frontends, room[family.slots], backends)
        state._capacity = room[family.frontends]
        state._ranges = SourceRanges.adopt(maps[family.sources])
        state._names = NameTable.adopt(maps[family.names])
        by_frontend = state._adopt_backends(maps[family.backends])
        state._adopt_frontends(maps[family.frontends], maps[family.slots], by_frontend)
        return state, [member for members in by_frontend.values() for member in members]

    def _adopt_backends(self, backends: Map) -> defaultdict[int, list[tuple[int, BackendValue]]]:
        by_frontend: defaultdict[int, list[tuple[int, BackendValue]]] = defaultdict(list)
        used: set[int] = set()
        empty = bytes(layout.BACKEND_BYTES[self.family.address_bytes])
        for key, raw in backends.items():
            if raw == empty:
                continue
            number, value = int.from_bytes(key, sys.byteorder), BackendValue.unpack(raw)
            used.add(number)
            if value.hop:
                self._hops[value.address] = value.hop
            if value.flags & _GONE:
                self.gone[number] = self._left[number] = value
                self._retired.add(value.frontend)
            else:
                by_frontend[value.frontend].append((number, value))
        self._backend_ids = tables.NumberPool(self._backend_ids.capacity, frozenset(used))
        return by_frontend

    def _adopt_frontends(
        self, frontends: Map, slots: Map, by_frontend: dict[int, list[tuple[int, BackendValue]]]
    ) -> None:
        ids: set[int] = set()
        for raw_key, raw_value in frontends.items():
            key, value = layout.unpack_key(raw_key), FrontendValue.unpack(raw_value)
            if isinstance(key, bytes):
                self._addresses.add(key)
                continue
            found = sorted(by_frontend.pop(value.id, []), key=lambda item: item[1][:2])
            members = Members.with_sides(
                tuple(Backend(v.address, v.port, v.weight) for _, v in found),
                bytes(v.flags for _, v in found),
            )
            served = Served(value, None, members, array("I", (number for number, _ in found)))
            if not self._adopt_tables(slots, served):
                flags = value.flags & ~_MOVING
                served.value = value._replace(
                    base=0, size=0, inside_base=0, inside_size=0, fingerprint=0, flags=flags
                )
                served.moving = None
            elif Contents.of(members, served.ids).fingerprint == value.fingerprint:
                name = self._names.written.get(value.id, "")
                served.desired = as_desired(key, members, value, self._ranges.of(value.id), name)
            self.served[key] = served
            ids.add(value.id)
        self._want_addresses()
        self._retired -= ids
        every = frozenset(ids | self._retired | set(by_frontend))
        self._frontend_ids = tables.NumberPool(self._frontend_ids.capacity, every)

    def _adopt_tables(self, slots: Map, served: Served) -> bool:
        """Take the rows of a frontend's tables; False if the maps give them to another frontend too."""
        value = served.value
        if value.flags & _MOVING:
            found = table_rows.read(slots, value.base, value.size)
            if found is None:
                return False
            served.moving = Moving.of(*found)
        taken: list[tuple[int, int]] = []
        for run in served.runs:
            if not self._space.reserve(*run):
                for each in taken:
                    self._space.release(*each)
                return False
            taken.append(run)
        return True

    def _release(self, served: Served) -> None:
        for run in served.runs:
            self._space.release(*run)

    def apply(
        self, maps: Mapping[str, Map], desired: Mapping[FrontendKey, Frontend], ahead: Ahead | None = None
    ) -> SyncReport:
        """Make the maps serve exactly `desired`, all of this family (see model.merge).

        A frontend that finds no room is reported and leaves the others alone. Of addresses that backends come
        to have `ahead` is told before they are written.

        Raises:
            LbModelError: one is of another family; nothing was written.
            BpfError: a map refused a write. What the maps show is whole; adopt() them anew.
        """
        removed, doubtful = self._differences(desired)
        self._refuse_others(doubtful)
        self._applied = {}  # until all of it is done
        wanted = [each for each in doubtful if not self._is_served(each)]
        if not removed and not wanted:
            self._name(maps, doubtful)
            self._applied = desired
            return SyncReport()

        if ahead is not None:
            members = (each for frontend in wanted for each in (*frontend.backends, *(frontend.inside or ())))
            ahead({member.address for member in members}.difference(self._hops))
        changing = (self.served.get(key) for key in (*removed, *(each.key for each in wanted)))
        self.own.forget(maps, (number for served in changing if served for number in served.ids))
        frontends = maps[self.family.frontends]
        writer = TableWriter(maps, self.family)
        if removed:
            self._remove(frontends, writer, removed)
        self._returning = {(v.frontend, v.address, v.port): number for number, v in self.gone.items()}
        added = changed = 0
        self._crowded = 0
        unserved: list[Unserved] = []
        for frontend in wanted:
            was = self.served.get(frontend.key)
            try:
                self._serve(writer, frontend)
            except _NoRoomError as error:
                unserved.append(Unserved(frontend.key, frontend.owner, str(error)))
                continue
            writer.flush_if_large()
            added += was is None
            changed += was is not None and was.value != self.served[frontend.key].value
        writer.flush()
        if self._doubtful_addresses:
            self._want_addresses()
        self._write_addresses(frontends)
        self._name(maps, doubtful)
        self._applied = {} if unserved else desired
        return SyncReport(
            added=added,
            changed=changed,
            removed=len(removed),
            backends_written=writer.backends_written,
            rows_written=writer.rows_written,
            unserved=tuple(unserved),
            crowded=self._crowded,
        )

    def _differences(
        self, desired: Mapping[FrontendKey, Frontend]
    ) -> tuple[Set[FrontendKey], list[Frontend]]:
        """Frontends to remove, and those that may be new or differ: few of many, as a rule."""
        last, served = self._applied, self.served
        if len(last) == len(desired) and all(map(is_, last, desired)):
            # The same frontends in the same order, so that no look-up is needed: a tenth of the time.
            return frozenset(), list(compress(desired.values(), map(is_not, last.values(), desired.values())))
        doubtful = [
            frontend
            for key, frontend in desired.items()
            if (known := served.get(key)) is None or known.desired is not frontend
        ]
        return served.keys() - desired.keys(), doubtful

    def _is_served(self, frontend: Frontend) -> bool:
        served = self.served.get(frontend.key)
        return served is not None and served.desired == frontend

    def _name(self, maps: Mapping[str, Map], frontends: Iterable[Frontend]) -> None:
        """Let these be known by what declares them now, which is no difference to packets."""
        names: dict[int, str] = {}
        for frontend in frontends:
            served = self.served.get(frontend.key)
            if served is not None and served.desired == frontend:
                served.desired = frontend
                names[served.value.id] = frontend.owner
        self._names.write(maps[self.family.names], names)

    def _refuse_others(self, wanted: Iterable[Frontend]) -> None:
        for frontend in wanted:
            if len(frontend.key.address) != self.family.address_bytes:
                raise LbModelError(
                    f"{frontend.key} is no {self.family} frontend, and there are no maps of another family",
                    where=frontend.owner,
                )

    def _remove(self, frontends: Map, writer: TableWriter, keys: Set[FrontendKey]) -> None:
        packed = [layout.pack_key(key) for key in keys]
        frontends.delete_batch(b"".join(packed), len(packed))
        for key in keys:
            served = self.served.pop(key)
            self._release(served)
            self._retired.add(served.value.id)
            self._ranges.write(writer, served.value.id, ())
            for member, number in zip(served.members, served.ids, strict=True):
                self._retire(writer, number, self._backend_value(member, served.value.id))
        writer.flush()
        self._want_addresses()
        self._write_addresses(frontends)

    def _serve(self, writer: TableWriter, frontend: Frontend) -> None:
        """Queue the writes for one frontend that is new or differs."""
        served = self.served.get(frontend.key)
        members = Members.of(frontend)
        known = self._numbers(served, members)
        self._check_room(frontend, served, len(members.every) - len(known))
        ids = array(
            "I",
            (known[m[:2]] if m[:2] in known else self._backend_ids.take() for m in members.every),
        )
        contents = Contents.of(members, ids)
        before = served.value if served else None
        flags, moved = flags_of(frontend), None
        same_tables = served is not None and has_tables(served, frontend, contents)
        if served is not None and same_tables:
            places, now_moving = Places(*served.value[:4]), served.moving
        else:
            if served is not None and writer.keeps_connections:
                moved = moved_table(writer.slots, served, frontend, contents, int(self._clock()))
            places, moved = self._place(writer, contents, moved, ids, known)
            now_moving = Moving.of(moved, table_rows.rows_behind(moved)) if moved else None
        value = FrontendValue(
            *places,
            before.id if before else self._frontend_ids.take(),
            contents.fingerprint,
            frontend.affinity_seconds,
            flags | _MOVING if now_moving else flags,
        )

        self._ranges.write(writer, value.id, frontend.source_ranges)
        self._write_members(writer, served, members, ids, value.id)
        if not same_tables:
            writer.tables(value, contents, moved)
        if before != value:
            writer.frontend(layout.pack_key(frontend.key), value)
        if served is not None:
            self._leave(writer, served, ids)
            if not same_tables:
                self._release(served)
            self._doubtful_addresses |= bool((served.value.flags ^ value.flags) & _SOCKETS_ONLY)
        self.served[frontend.key] = Served(value, frontend, members, ids, now_moving)
        if not frontend.sockets_only:
            self._wanted_addresses.add(frontend.key.address)

    def _check_room(self, frontend: Frontend, served: Served | None, fresh_backends: int) -> None:
        family, address = self.family, frontend.key.address
        if fresh_backends > self._backend_ids.available:
            raise _NoRoomError(f"the backend table is full ({family.backends})")
        number = served.value.id if served else None
        if frontend.source_ranges and not self._ranges.room_for(number, frontend.source_ranges):
            raise _NoRoomError(f"the table of source ranges is full ({family.sources})")
        if served is not None:
            return
        entries = len(self.served) + 1 + len(self._wanted_addresses) + (address not in self._wanted_addresses)
        if entries > self._capacity:
            raise _NoRoomError(f"the frontend table is full ({family.frontends})")
        if not self._frontend_ids.available:
            raise _NoRoomError("all frontend ids are in use, removed frontends' among them")

    def _numbers(self, served: Served | None, members: Members) -> dict[tuple[bytes | int, ...], int]:
        """Return the numbers that members have, or had: a returning backend gets its own back."""
        if served is None:
            return {}
        had = {m[:2]: number for m, number in zip(served.members, served.ids, strict=True)}
        known: dict[tuple[bytes | int, ...], int] = {}
        for address, port, _ in members.every:
            number = had.get((address, port), self._returning.get((served.value.id, address, port)))
            if number is not None:
                known[address, port] = number
        return known

    def _place(
        self,
        writer: TableWriter,
        contents: Contents,
        moved: Table | None,
        ids: array[int],
        known: dict[tuple[bytes | int, ...], int],
    ) -> tuple[Places, Table | None]:
        """Take free rows for both tables; without room, give fresh ids back and raise.

        They lie side by side, so that there is room for both or for none. Where there is none for what lies
        behind a table, connections move: backends that came or left matter more.
        """
        inside_rows = 0 if contents.shared else tables.rows_of(contents.inside_size)
        if moved is not None:
            own = tables.rows_of(moved.size) + table_rows.rows_behind(moved)
            row = self._take_rows(writer, own + inside_rows)
            if row is not None:
                return places_from(contents, row, moved.size, own), moved
            self._crowded += 1
        own = tables.rows_of(contents.size)
        row = self._take_rows(writer, own + inside_rows) if own + inside_rows else 0
        if row is None:
            for number in set(ids) - set(known.values()):
                self._backend_ids.give_back(number)
            raise _NoRoomError(f"no {contents.rows} free rows in a run for its table ({self.family.slots})")
        return places_from(contents, row, contents.size, own), None

    def _take_rows(self, writer: TableWriter, rows: int) -> int | None:
        row = self._space.take(rows)
        if row is None and self._space.resting:
            writer.flush()  # frontends whose old tables rest may not have left them yet
            wait_for_readers()
            self._space.reclaim()
            row = self._space.take(rows)
        return row

    def _write_members(
        self,
        writer: TableWriter,
        served: Served | None,
        members: Members,
        ids: array[int],
        frontend_id: int,
    ) -> None:
        written: dict[int, tuple[Backend, int]] = {}
        if served is not None:
            had = enumerate(zip(served.ids, served.members, strict=True))
            written = {number: (member, served.known.side(i)) for i, (number, member) in had}
        for i, (member, number) in enumerate(zip(members.every, ids, strict=True)):
            side = members.side(i)
            if written.get(number) != (member, side):
                self.gone.pop(number, None)
                self._left.pop(number, None)
                self._arrived.add(member.address)
                writer.backend(number, self._backend_value(member, frontend_id, side))

    def _leave(self, writer: TableWriter, served: Served, ids: array[int]) -> None:
        staying = set(ids)
        for member, number in zip(served.members, served.ids, strict=True):
            if number not in staying:
                self._retire(writer, number, self._backend_value(member, served.value.id))

    def _retire(self, writer: TableWriter, number: int, value: BackendValue) -> None:
        value = value._replace(flags=_USED | _GONE)
        self.gone[number] = self._left[number] = value
        writer.gone(number, value)

    def _backend_value(self, member: Backend, frontend_id: int, side: int = 0) -> BackendValue:
        address, port, weight = member
        flags = _USED | side
        return BackendValue(address, port, weight, frontend_id, self._hops.get(address), flags)

    def _want_addresses(self) -> None:
        """Those of frontends that packets may be for."""
        self._wanted_addresses = {
            key.address for key, served in self.served.items() if not served.value.flags & _SOCKETS_ONLY
        }
        self._doubtful_addresses = False

    def _write_addresses(self, frontends: Map) -> None:
        """Keep one entry per address, by which fragments without ports are known to be ours."""
        wanted = self._wanted_addresses
        if wanted == self._addresses:
            return
        value = FrontendValue(flags=FrontendFlag.ADDRESS).pack()
        new = [layout.pack_address_key(address) for address in wanted - self._addresses]
        old = [layout.pack_address_key(address) for address in self._addresses - wanted]
        frontends.delete_batch(b"".join(old), len(old))
        frontends.update_batch(b"".join(new), value * len(new), len(new))
        self._addresses = set(wanted)

    def set_next_hops(self, maps: Mapping[str, Map], hops: Mapping[bytes, NextHop | None]) -> int:
        """Write how backends are reached, by address; None = look the route up for each packet.

        Returns the number of backends written. A changed hop is withdrawn before it is replaced, so
        that no packet leaves with half of each.
        """
        changed = {address: hop for address, hop in hops.items() if self._hops.get(address) != hop}
        if not changed:
            return 0
        moved = list(self._backends_at(changed.keys()))
        self.own.forget(maps, (number for number, _ in moved))
        withdraw, announce = TableWriter(maps, self.family), TableWriter(maps, self.family)
        for number, value in moved:
            self._forget_here(maps, number, value)
            withdraw.backend(number, value._replace(hop=None))
            hop = changed[value.address]
            if hop is not None:
                announce.backend(number, value._replace(hop=hop))
        withdraw.flush()
        announce.flush()
        for address, hop in changed.items():
            if hop is None:
                self._hops.pop(address, None)
            else:
                self._hops[address] = hop
        return withdraw.backends_written

    def addresses(self) -> set[bytes]:
        """Return the addresses of all backends, gone ones too: flows may still lead there."""
        self._arrived.clear()
        addresses = {member.address for served in self.served.values() for member in served.members}
        return addresses | {gone.address for gone in self.gone.values()}

    def take_left(self) -> dict[int, BackendValue]:
        """Return backends that left since the last call, by number; at first those of an earlier loader."""
        left, self._left = self._left, {}
        return left

    def take_arrived(self) -> set[bytes]:
        """Return addresses of backends written since this or addresses() was last called."""
        arrived, self._arrived = self._arrived, set()
        return arrived

    def next_hop(self, address: bytes) -> NextHop | None:
        """Return how backends at `address` are reached, as written; None = by a route lookup."""
        return self._hops.get(address)

    def forget_next_hops(self, addresses: Iterable[bytes]) -> None:
        """Drop the hops of addresses that no backend has any more, so that none comes back with one."""
        for address in addresses:
            self._hops.pop(address, None)

    def places_here(self) -> Iterable[Place]:
        """Frontends under DSR that anybody may come to, with backends that are this very node."""
        for key, served in self.served.items():
            if served.value.flags & _OPEN_DSR != _DSR:
                continue
            for member, number in zip(served.members, served.ids, strict=True):
                hop = self._hops.get(member.address) if member.port == key.port else None
                if hop is not None and hop.is_local and not hop.ifindex:
                    yield Place(number, member.address, key)

    def _backends_at(self, addresses: Iterable[bytes]) -> Iterable[tuple[int, BackendValue]]:
        wanted = set(addresses)
        for served in self.served.values():
            for i, member in enumerate(served.members):
                if member.address in wanted:
                    yield (
                        served.ids[i],
                        self._backend_value(member, served.value.id, served.known.side(i)),
                    )
        for number, gone in self.gone.items():
            if gone.address in wanted:
                yield number, gone

    def _forget_here(self, maps: Mapping[str, Map], number: int, value: BackendValue) -> None:
        hop = self._hops.get(value.address)
        if hop is not None and hop.is_local:
            forget_here(maps, self.family, number, value)

    @property
    def is_moving(self) -> bool:
        """Whether connections of some frontend are looked up."""
        return any(served.moving is not None for served in self.served.values())

    @property
    def rooms(self) -> dict[str, tuple[int, int]]:
        """What is taken and what there is, by the field of spec.limits that bounds it.

        A frontend takes a number and an entry, and its address an entry if nobody else has it: what runs out
        first counts.
        """
        ids, numbers, space = self._frontend_ids, self._backend_ids, self._space
        entries = len(self.served) + len(self._wanted_addresses), self._capacity
        named = ids.capacity - ids.available, ids.capacity
        return {
            "frontends": max(named, entries, key=lambda room: room[0] / room[1]),
            "backends": (numbers.capacity - numbers.available, numbers.capacity),
            "slots": (space.held * layout.ROW_SLOTS, space.rows * layout.ROW_SLOTS),
        }

    @property
    def short_of_room(self) -> bool:
        """Whether what is kept for connections may soon be missed by backends that come."""
        numbers = self._backend_ids
        return 4 * numbers.available < numbers.capacity or 4 * self._space.held > 3 * self._space.rows

    def read_table(self, maps: Mapping[str, Map], served: Served) -> Table:
        """The table of a frontend for packets, as the maps have it."""
        return read_table(maps[self.family.slots], served)

    def rewrite(self, maps: Mapping[str, Map], key: FrontendKey, old: Table, new: Table) -> None:
        """Write other flags into a frontend's table, and into what lies behind it, while packets read them.

        Args:
            maps: ServiceLB's.
            key: of the frontend.
            old: what read_table() returned.
            new: the same table, and nothing larger behind it.
        """
        served = self.served[key]
        assert served.moving is not None
        rows = table_rows.changed_rows(served.value.base, old, new)
        maps[self.family.slots].update_batch(array("I", rows).tobytes(), b"".join(rows.values()), len(rows))
        if new.flagged:
            served.moving = Moving.of(new, served.moving.behind)
            return
        value = served.value._replace(flags=served.value.flags & ~_MOVING)
        if new.is_nobodys:
            shared = (value.base, value.size) == (value.inside_base, value.inside_size)
            value = value._replace(base=0, size=0)
            value = value._replace(inside_base=0, inside_size=0) if shared else value
        maps[self.family.frontends].update(layout.pack_key(key), value.pack())
        (first, length), *_ = served.runs
        kept = tables.rows_of(value.size)
        self._space.release(first + kept, length - kept)
        served.value, served.moving = value, None

    def free_gone(self, maps: Mapping[str, Map], still_used: frozenset[int]) -> int:
        """Free gone backends that no flow refers to; return how many.

        Their counts move to their frontend's row first, so that its totals never fall.
        """
        family, empty = self.family, bytes(layout.BACKEND_BYTES[self.family.address_bytes])
        numbers = [number for number in self.gone if number not in still_used]
        alive = {served.value.id for served in self.served.values()} if numbers else set()
        for number in numbers:
            value = self.gone.pop(number)
            frontend = value.frontend
            self._forget_here(maps, number, value)
            self._fold_counts(maps, number, frontend if frontend in alive else None)
            maps[family.backends].update(layout.u32(number), empty)
            self._backend_ids.give_back(number)
        for frontend in self._retired - {gone.frontend for gone in self.gone.values()}:
            maps[family.frontend_counts].update(layout.u32(frontend), Stat().pack())
            self._names.forget(maps[family.names], [frontend])
            self._retired.discard(frontend)
            self._frontend_ids.give_back(frontend)
        return len(numbers)

    def _fold_counts(self, maps: Mapping[str, Map], number: int, frontend: int | None) -> None:
        by_backend, by_frontend = maps[self.family.backend_counts], maps[self.family.frontend_counts]
        counted = by_backend.lookup(layout.u32(number)) or b""
        if frontend is not None and any(counted):
            row = layout.u32(frontend)
            total = Stat.sum(by_frontend.lookup(row) or Stat().pack())
            by_frontend.update(row, total.plus(Stat.sum(counted)).pack())
        if any(counted):
            by_backend.update(layout.u32(number), bytes(len(counted)))

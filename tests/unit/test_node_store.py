"""NodeStore against a small API server: what is in force, what is kept, what is said, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubebee.planner import wire
from kubebee.planner.plan import ResourceKey
from kubebee.store.api_access import ApiAccess
from kubebee.store.api_client import ApiClient
from kubebee.store.node import NodeStore, NoPlanError
from kubebee.store.node_api import NodeApi
from kubebee.store.node_cache import NodeCache
from kubebee.store.snapshot import Snapshot
from kubebee.store.state import EventRecord
from support.api_server import NAMESPACE, ApiServer, bound
from support.site import EXEC, counter, program, tracer

NODE = "node1"
PATIENCE = 0.2
DEADLINE = 20.0
PACKETS, EXECS = program("packets", counter()), program("execs", tracer(), EXEC)
EDITED = program("packets", counter(body="key++;"))


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(bound(socket.socket)) as server:
        yield server


class Following:
    """A store that follows the API server, and an agent's part in it."""

    def __init__(self, store: NodeStore) -> None:
        self.store = store
        self.unanswered = 0

    def answered(self, _: str, status: str) -> None:
        """Count requests without an answer."""
        self.unanswered += status == "0"

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait for something that the store or the server comes to."""
        for _ in range(int(DEADLINE / 0.01)):
            if look():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{what}: not within {DEADLINE} s")

    async def news(self) -> Snapshot:
        """The next snapshot that a change leads to, taken over as an agent does."""
        async with asyncio.timeout(DEADLINE):
            async for _ in self.store.changes():
                break
        return self.taken()

    def taken(self) -> Snapshot:
        """What is in force now; the kernel has it."""
        snapshot = self.store.scan()
        self.store.save()
        return snapshot

    def publish(self, snapshot: Snapshot, **status: Any) -> None:
        """Say something of the node."""
        document = {"metadata": {"generation": snapshot.generation}, "status": {"kernel": "6", **status}}
        self.store.publish(ResourceKey("BpfNode", NODE), document)


@contextlib.asynccontextmanager
async def following(
    server: ApiServer, folder: Path, access: ApiAccess | None = None
) -> AsyncIterator[Following]:
    """A store of `NODE` that follows `server`."""
    async with ApiClient(access or ApiAccess(server.url)) as client:
        store = NodeStore(NodeApi(client, NODE, NAMESPACE), NodeCache(folder, NODE))
        task = asyncio.create_task(store.follow(PATIENCE))
        follow = Following(store)
        client.answered = follow.answered
        try:
            yield follow
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def names(snapshot: Snapshot) -> list[tuple[str, int]]:
    """Name and generation of what is in force."""
    return [(declared.key.name, declared.generation) for declared in snapshot.resources]


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


# -- what is in force ----------------------------------------------------------------------------------------


def test_a_spec_and_its_edits_are_taken_over(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        packets, execs = api.put_bundle(PACKETS, 3), api.put_bundle(EXECS)
        generation = api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            first = await follow.news()
            assert (names(first), first.generation) == ([("packets", 3)], generation)
            assert first.resources[0].version == packets["hash"]
            api.set_spec(NODE, [packets, execs])
            assert names(await follow.news()) == [("execs", 1), ("packets", 3)]
            api.set_spec(NODE, [execs])
            assert names(await follow.news()) == [("execs", 1)]
            assert api.count("get") == 2, "each bundle is read once"

    run(test)


def test_a_new_generation_of_the_same_content_reads_nothing(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
            api.set_spec(NODE, [{**packets, "generation": 2}])
            assert names(await follow.news()) == [("packets", 2)]
            assert api.count("get") == 1

    run(test)


def test_a_large_bundle_travels_compressed(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        large = program("packets", counter(body="/*" + "x" * wire.PACK_ABOVE + "*/"))
        api.set_spec(NODE, [api.put_bundle(large)])
        async with following(api, tmp_path) as follow:
            assert names(await follow.news()) == [("packets", 1)]
        with api.away():
            async with following(api, tmp_path) as follow:
                assert names(await follow.news()) == [("packets", 1)], "and is kept so"

    run(test)


def test_before_a_spec_is_known_nothing_is_said_to_be_in_force(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        async with following(api, tmp_path) as follow:
            await follow.until("a watch", lambda: follow.store.watching)
            with pytest.raises(NoPlanError):
                follow.store.scan()
            api.set_spec(NODE, None)
            api.set_spec(NODE, None, generation=7)
            await follow.until("the list again", lambda: api.count("watch") >= 1)
            assert not follow.store.known.is_set()
            api.set_spec(NODE, [])
            assert names(await follow.news()) == []

    run(test)


@pytest.mark.parametrize("how", ["deleted", "emptied of its spec"])
def test_a_bpfnode_that_is_gone_removes_nothing(
    api: ApiServer, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
            if how == "deleted":
                api.delete_node(NODE)
            else:
                api.set_spec(NODE, None)
            await follow.until("it is noticed", lambda: "no BpfNode with a list" in caplog.text)
            assert names(follow.taken()) == [("packets", 1)]
            api.set_spec(NODE, [packets, api.put_bundle(EXECS)])
            assert names(await follow.news()) == [("execs", 1), ("packets", 1)]

    run(test)


# -- bundles that can't be had -------------------------------------------------------------------------------


def test_of_a_missing_bundle_the_version_before_stays_until_it_is_there(
    api: ApiServer, tmp_path: Path
) -> None:
    async def test() -> None:
        api.set_spec(NODE, [api.put_bundle(PACKETS)])
        async with following(api, tmp_path) as follow:
            await follow.news()
            edited, execs = api.put_bundle(EDITED, 2), api.put_bundle(EXECS)
            content = api.drop_bundle(edited)
            api.set_spec(NODE, [edited, execs])
            snapshot = await follow.news()
            assert names(snapshot) == [("execs", 1), ("packets", 1)], "others are not held up"
            (rejected,) = snapshot.rejected
            assert (rejected.error.reason, rejected.generation) == ("BundleMissing", 2)
            assert (rejected.version, rejected.error.may_pass) == (edited["hash"], True)
            assert edited["configMap"] in rejected.error.where
            api.put_config_map(edited["configMap"], content)
            snapshot = await follow.news()
            assert (names(snapshot), snapshot.rejected) == ([("execs", 1), ("packets", 2)], ())

    run(test)


def test_a_damaged_bundle_is_refused_and_read_again_once_it_is_mended(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        good = api.drop_bundle(packets)
        api.put_config_map(packets["configMap"], {"data": {"bundle.json": "{}"}})
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            snapshot = await follow.news()
            assert [one.error.reason for one in snapshot.rejected] == ["InvalidBundle"]
            api.put_config_map(packets["configMap"], good)
            assert names(await follow.news()) == [("packets", 1)]

    run(test)


def test_a_bundle_of_another_resource_is_refused(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [{**api.put_bundle(PACKETS), "name": "execs"}])
        async with following(api, tmp_path) as follow:
            (rejected,) = (await follow.news()).rejected
            assert "BpfProgram/packets" in rejected.error.message

    run(test)


def test_what_this_version_does_not_act_on_is_refused_and_the_version_before_stays_over_a_restart(
    api: ApiServer, tmp_path: Path
) -> None:
    async def test() -> None:
        unbuilt = program("packets", counter(), overhead={"maxCpuPercent": 1})
        api.set_spec(NODE, [api.put_bundle(PACKETS)])
        async with following(api, tmp_path) as follow:
            await follow.news()
            api.set_spec(NODE, [api.put_bundle(unbuilt, 2)])
            snapshot = await follow.news()
            assert names(snapshot) == [("packets", 1)]
            assert [one.error.may_pass for one in snapshot.rejected] == [False]
        for _ in range(2):
            async with following(api, tmp_path) as follow:
                again = await follow.news()
                assert names(again) == [("packets", 1)]
                assert [str(one.error) for one in again.rejected] == [
                    str(one.error) for one in snapshot.rejected
                ]

    run(test)


# -- the disk ------------------------------------------------------------------------------------------------


def test_without_an_api_server_the_saved_plan_is_in_force(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        generation = api.set_spec(NODE, [api.put_bundle(PACKETS), api.put_bundle(EXECS)])
        async with following(api, tmp_path) as follow:
            await follow.news()
        with api.away():
            async with following(api, tmp_path) as follow:
                snapshot = await follow.news()
                assert names(snapshot) == [("execs", 1), ("packets", 1)]
                assert snapshot.generation == generation
                api.start()
                await follow.until("a watch", lambda: follow.store.watching)
                api.set_spec(NODE, [])
                assert names(await follow.news()) == []

    run(test)


def test_a_plan_of_another_node_does_not_count(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [api.put_bundle(PACKETS)])
        async with following(api, tmp_path) as follow:
            await follow.news()
        assert NodeCache(tmp_path, NODE).plan() is not None
        assert NodeCache(tmp_path, "node2").plan() is None

    run(test)


@pytest.mark.parametrize("damage", [b"", b"bundle.json\n{}", b"\xff" * 50])
def test_a_damaged_bundle_on_disk_is_read_anew(api: ApiServer, tmp_path: Path, damage: bytes) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
        file = tmp_path / "bundles" / packets["hash"]
        whole = file.read_bytes()
        file.write_bytes(damage)
        async with following(api, tmp_path) as follow:
            assert names(await follow.news()) == [("packets", 1)]
            assert file.read_bytes() == whole

    run(test)


@pytest.mark.parametrize("damage", [b"", b'{"format": 99}', b"\0"])
def test_a_damaged_plan_on_disk_counts_as_none(api: ApiServer, tmp_path: Path, damage: bytes) -> None:
    async def test() -> None:
        (tmp_path / "plan.json").write_bytes(damage)
        with api.away():
            async with following(api, tmp_path) as follow:
                await follow.until("tries without an answer", lambda: follow.unanswered > 1)
                assert not follow.store.known.is_set()
                api.start()
                api.set_spec(NODE, [api.put_bundle(PACKETS)])
                assert names(await follow.news()) == [("packets", 1)]

    run(test)


def test_only_bundles_of_the_plan_stay_on_disk(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        packets, edited = api.put_bundle(PACKETS), api.put_bundle(EDITED, 2)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
            api.set_spec(NODE, [edited])
            await follow.news()
            assert {path.name for path in (tmp_path / "bundles").iterdir()} == {edited["hash"]}

    run(test)


def test_a_full_disk_costs_nothing_but_the_plan_on_it(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "bundles").write_text("a file where a folder shall be: nothing can be written")
        api.set_spec(NODE, [api.put_bundle(PACKETS)])
        async with following(api, tmp_path) as follow:
            async for _ in follow.store.changes():
                break
            assert names(follow.store.scan()) == [("packets", 1)]
            with pytest.raises(OSError, match="bundles"):
                follow.store.save()
            (tmp_path / "bundles").unlink()
            follow.store.save()
        with api.away():
            async with following(api, tmp_path) as follow:
                assert names(await follow.news()) == [("packets", 1)]

    run(test)


# -- the API server's moods ----------------------------------------------------------------------------------


def test_a_watch_that_is_cut_goes_on_where_it_was(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
            for generation in (2, 3):
                watches = api.count("watch")
                api.cut_watches()
                api.set_spec(NODE, [{**packets, "generation": generation}])
                assert names(await follow.news()) == [("packets", generation)]
                assert api.count("watch") > watches
            assert api.count("list") == 1, "nothing was listed again"

    run(test)


@pytest.mark.parametrize("when", ["while watching", "when watching again"])
def test_a_past_that_is_gone_is_listed_again(api: ApiServer, tmp_path: Path, when: str) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
            await follow.until("a watch", lambda: follow.store.watching)
            if when == "while watching":
                api.expire_watches()
            else:
                with api.away():
                    pass
                api.compact()
            api.set_spec(NODE, [{**packets, "generation": 2}])
            assert names(await follow.news()) == [("packets", 2)]
            assert api.count("list") == 2

    run(test)


@pytest.mark.parametrize(
    ("verb", "status"), [("list", 401), ("list", 503), ("watch", 403), ("watch", 429), ("get", 500)]
)
def test_a_refusal_passes(api: ApiServer, tmp_path: Path, verb: str, status: int) -> None:
    async def test() -> None:
        api.refuse(verb, status, times=2, retry_after="1" if status == 429 else "")
        api.set_spec(NODE, [api.put_bundle(PACKETS)])
        async with following(api, tmp_path) as follow:
            snapshot = await follow.news()
            assert names(snapshot) == [("packets", 1)], "without it, what runs of it would be removed"
            await follow.until("a watch", lambda: follow.store.watching)
            assert api.count(verb, status) == 2

    run(test)


def test_a_bundle_that_can_not_be_read_now_holds_up_no_other_later_on(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            await follow.news()
            api.refuse("get", 503)
            api.set_spec(NODE, [api.put_bundle(PACKETS)])
            snapshot = await follow.news()
            assert [one.error.reason for one in snapshot.rejected] == ["ApiUnavailable"]
            assert names(await follow.news()) == [("packets", 1)]

    run(test)


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_edits_during_an_outage_come_in_after_it(api: ApiServer, tmp_path: Path, silent: bool) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            await follow.news()
            with api.away(silent=silent):
                api.set_spec(NODE, [{**packets, "generation": 2}])
                await follow.until("the outage is noticed", lambda: not follow.store.watching)
                assert names(follow.taken()) == [("packets", 1)]
            assert names(await follow.news()) == [("packets", 2)]

    run(test)


# -- the status ----------------------------------------------------------------------------------------------


def test_a_status_is_written_when_it_changes_and_only_then(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        generation = api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            snapshot = await follow.news()
            for _ in range(50):
                follow.publish(snapshot)
            await follow.store.finish(5)
            assert api.status(NODE) == {"kernel": "6", "observedGeneration": generation}
            follow.publish(snapshot)
            await follow.store.finish(5)
            assert api.count("patch") == 1
            for number in range(50):
                follow.publish(snapshot, kernel=str(number))
            await follow.store.finish(5)
            assert api.status(NODE)["kernel"] == "49"
            assert api.count("patch") == 2, "at most one a second, and the newest"

    run(test)


def test_a_status_speaks_of_the_spec_that_was_applied(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        generation = api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            first = await follow.news()
            api.set_spec(NODE, [api.put_bundle(PACKETS)])
            await follow.news()  # scanned, not applied
            follow.publish(first)
            await follow.store.finish(5)
            assert api.status(NODE)["observedGeneration"] == generation

    run(test)


def test_statuses_of_single_resources_are_not_written(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            await follow.news()
            follow.store.publish(ResourceKey("BpfProgram", "packets"), {"metadata": {}, "status": {}})
            await follow.store.finish(5)
            assert api.count("patch") == 0

    run(test)


@pytest.mark.parametrize("status", [422, 429, 500])
def test_a_status_that_is_refused_is_written_later(api: ApiServer, tmp_path: Path, status: int) -> None:
    async def test() -> None:
        api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            snapshot = await follow.news()
            api.refuse("patch", status)
            follow.publish(snapshot)
            await follow.until("the refusal", lambda: api.count("patch", status) == 1)
            if status == 422:
                follow.publish(snapshot, kernel="7")
            await follow.until("the status", lambda: api.status(NODE))

    run(test)


def test_after_an_outage_the_newest_status_is_written(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            snapshot = await follow.news()
            with api.away():
                for number in range(3):
                    follow.publish(snapshot, kernel=str(number))
                    follow.store.publish_events([event(str(n)) for n in range(number + 1)])
            await follow.until("the newest", lambda: api.status(NODE).get("kernel") == "2")
            assert [one["message"] for one in api.status(NODE)["happenings"]] == ["0", "1", "2"]
            assert api.count("patch") == 1

    run(test)


def test_a_bpfnode_that_is_made_anew_is_told_the_same(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        packets = api.put_bundle(PACKETS)
        api.set_spec(NODE, [packets])
        async with following(api, tmp_path) as follow:
            follow.publish(await follow.news())
            await follow.store.finish(5)
            api.delete_node(NODE)
            api.set_spec(NODE, [packets])
            await follow.news()  # of one that is equal the agent publishes nothing anew
            await follow.until("its status", lambda: api.status(NODE).get("observedGeneration") == 1)

    run(test)


def test_a_status_that_somebody_takes_away_is_written_again(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            follow.publish(await follow.news())
            await follow.store.finish(5)
            api.clear_status(NODE)
            await follow.until("its status", lambda: api.status(NODE))

    run(test)


def event(message: str) -> EventRecord:
    """An Event of packets."""
    time = "2026-01-01T00:00:00Z"
    return EventRecord(
        kind="BpfProgram",
        name="packets",
        type="Normal",
        reason="Loaded",
        message=message,
        count=1,
        first_timestamp=time,
        last_timestamp=time,
    )


def test_of_what_happened_the_last_50_are_said_also_after_a_restart(api: ApiServer, tmp_path: Path) -> None:
    async def test() -> None:
        api.set_spec(NODE, [])
        async with following(api, tmp_path) as follow:
            await follow.news()
            follow.store.publish_events([event(str(number)) for number in range(70)])
        async with following(api, tmp_path) as follow:
            assert len(follow.store.earlier_events()) == 70
            follow.publish(await follow.news())
            await follow.until("its status", lambda: api.status(NODE))
            said = [one["message"] for one in api.status(NODE)["happenings"]]
            assert said == [str(number) for number in range(20, 70)]

    run(test)

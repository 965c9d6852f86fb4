"""What a folder of manifests lives through on real file systems: links, half-written files, forged times."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubebee.store.directory import DirectoryStore, Snapshot
from support.running import wait_for

CLOCK = itertools.count()


def manifest(name: str, text: str = "a") -> str:
    """A small BpfProgram."""
    return (
        "apiVersion: kubebee.dev/v1alpha1\n"
        "kind: BpfProgram\n"
        f"metadata: {{name: {name}}}\n"
        "spec:\n"
        f"  source: {{inline: '/* {text} */'}}\n"
        "  programs: [{name: f, attach: {type: XDP, interfaces: {all: true}}}]\n"
    )


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A store on an empty folder."""
    return DirectoryStore(tmp_path, lambda: f"2026-01-01T00:00:00.{next(CLOCK):06}Z")


def in_force(snapshot: Snapshot) -> dict[str, int]:
    """Generations by name."""
    return {declared.key.name: declared.generation for declared in snapshot.resources}


def test_a_symbolic_link_to_itself_is_one_bad_file_among_good_ones(
    store: DirectoryStore, tmp_path: Path
) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "good.yaml").write_text(manifest("good"))
    snapshot = store.scan()
    assert in_force(snapshot) == {"good": 1}
    assert [rejected.error.where for rejected in snapshot.rejected] == ["loop.yaml"]


def test_a_pipe_is_refused_and_not_waited_for(store: DirectoryStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "good.yaml").write_text(manifest("good"))
    snapshot = store.scan()
    assert in_force(snapshot) == {"good": 1}
    assert sorted(rejected.error.where for rejected in snapshot.rejected) == ["device.yaml", "pipe.yaml"]


def test_an_edit_that_keeps_size_and_time_is_seen(store: DirectoryStore, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(manifest("p", "a"))
    stamp = path.stat().st_mtime_ns
    store.scan()
    path.write_text(manifest("p", "b"))
    os.utime(path, ns=(stamp, stamp))  # as `rsync -t` and `cp -p` do
    assert in_force(store.scan()) == {"p": 2}


def test_a_file_caught_between_truncation_and_writing_loses_nothing(
    store: DirectoryStore, tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"{manifest('p')}---\n{manifest('q')}")
    store.scan()
    with path.open("w") as file:
        for part in ("", manifest("p", "b")):
            file.write(part)
            file.flush()
            snapshot = store.scan()
            assert set(in_force(snapshot)) == {"p", "q"}
            assert snapshot.look_again
        file.write(f"---\n{manifest('q')}")
    assert in_force(store.scan()) == {"p": 2, "q": 1}


def test_a_document_that_is_taken_out_of_its_file_is_gone_soon(store: DirectoryStore, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"{manifest('p')}---\n{manifest('q')}")
    store.scan()
    path.write_text(manifest("p"))

    wait_for("the file is quiet", lambda: not store.scan().look_again, 5)
    assert in_force(store.scan()) == {"p": 1}


def test_a_file_that_is_replaced_whole_counts_at_once(store: DirectoryStore, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"{manifest('p')}---\n{manifest('q')}")
    store.scan()
    (tmp_path / ".new").write_text(manifest("p"))
    (tmp_path / ".new").replace(path)
    assert in_force(store.scan()) == {"p": 1}


def test_a_manifest_moved_to_another_file_stays_what_it_is(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("p"))
    store.scan()
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert in_force(store.scan()) == {"p": 1}
    (tmp_path / "b.yaml").write_text("{broken")
    (tmp_path / "c.yaml").write_text(manifest("p"))
    snapshot = store.scan()
    assert in_force(snapshot) == {"p": 1}
    assert [rejected.key for rejected in snapshot.rejected] == [None]  # p is well, in c.yaml


async def _told_each_time(store: DirectoryStore, *changes: Callable[[], object]) -> bool:
    """Whether each change of the folder is told within 5 s."""
    told = asyncio.Event()

    async def watch() -> None:
        async for _ in store.changes():
            told.set()

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        for change in changes:
            told.clear()
            change()
            async with asyncio.timeout(5):
                await told.wait()
    except TimeoutError:
        return False
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return True


def test_a_config_map_volume_that_swaps_its_data_is_news(tmp_path: Path) -> None:
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "p.yaml").write_text(manifest("p", version))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "p.yaml").symlink_to("..data/p.yaml")
    store = DirectoryStore(tmp_path, lambda: "")
    assert in_force(store.scan()) == {"p": 1}

    def swap() -> None:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    assert asyncio.run(_told_each_time(store, swap))
    assert in_force(store.scan()) == {"p": 2}


def test_a_folder_that_is_made_anew_is_watched_again(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    store = DirectoryStore(folder, lambda: "")

    def write() -> None:
        folder.mkdir()
        (folder / "p.yaml").write_text(manifest("p"))

    assert asyncio.run(_told_each_time(store, folder.rmdir, write, (folder / "p.yaml").unlink))


def test_an_edit_behind_a_symbolic_link_is_found_by_looking(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "manifests", tmp_path / "p.yaml"
    folder.mkdir()
    elsewhere.write_text(manifest("p"))
    (folder / "p.yaml").symlink_to(elsewhere)
    store = DirectoryStore(folder, lambda: "")
    store.scan()
    assert not store.stale()
    elsewhere.write_text(manifest("p", "b"))
    assert store.stale()
    store.scan()
    assert not store.stale()


@pytest.mark.parametrize(
    "odd", ["{true: 1}", "{null: 1}", "{1: a}", "2026-01-01", "!!set {a}", "!!binary aGk="]
)
def test_metadata_that_is_no_json_is_refused_and_keeps_nobody_else_from_being_kept(
    store: DirectoryStore, tmp_path: Path, odd: str
) -> None:
    (tmp_path / "odd.yaml").write_text(manifest("odd").replace("name: odd", f"name: odd, note: {odd}"))
    (tmp_path / "good.yaml").write_text(manifest("good"))
    snapshot = store.scan()
    assert in_force(snapshot) == {"good": 1}
    (rejected,) = snapshot.rejected
    assert rejected.error.reason == "InvalidSpec"
    assert "metadata.note" in str(rejected.error)
    store.save()
    assert [path.stem for path in tmp_path.glob(".kubebee/accepted/*/*")] == ["good"]


def test_a_status_in_a_manifest_is_neither_read_nor_kept(store: DirectoryStore, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a") + "status: {true: 1, conditions: none}\n")
    assert in_force(store.scan()) == {"a": 1}
    store.save()
    path.write_text(manifest("a"))
    assert in_force(DirectoryStore(tmp_path, lambda: "2027-01-01T00:00:00Z").scan()) == {"a": 1}


def test_an_edit_while_nothing_ran_is_told_from_none(store: DirectoryStore, tmp_path: Path) -> None:
    for name in ("same", "edited"):
        (tmp_path / f"{name}.yaml").write_text(manifest(name))
    store.scan()
    store.save()
    (tmp_path / "same.yaml").write_text(f"# why\n{manifest('same')}")
    (tmp_path / "edited.yaml").write_text(manifest("edited", "b"))
    again = DirectoryStore(tmp_path, lambda: "2027-01-01T00:00:00Z")
    assert in_force(again.scan()) == {"same": 1, "edited": 2}


def test_statuses_are_read_as_they_were_written_by_us_and_as_yaml(store: DirectoryStore) -> None:
    notes = ["line\nline", "'\"`: # {", "\x1b[1mloud\x7f", "\u2028\x85\ufeff\U0001f41d", "010", ""]
    documents = [
        {"kind": kind, "metadata": {"name": "a", "generation": 1}, "status": {"notes": notes}}
        for kind in ("BpfNode", "BpfProgram")
    ]
    for document in documents:
        store.state.save_status(str(document["kind"]), "a", document)
    assert list(store.state.statuses()) == documents

"""Edits of large manifests: what did not change is kept, and the outcome is that of reading all anew."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.planner.declared import Declared
from kubebee.planner.frontends import Balanced
from kubebee.store.directory import DirectoryStore
from kubebee.store.snapshot import Snapshot


def frontend(number: int, **changes: object) -> dict[str, Any]:
    """A frontend that is valid unless `changes` say otherwise."""
    backends = [{"address": f"10.1.{number}.{each}", "port": 8080} for each in range(1, 4)]
    return {"name": f"f{number}", "address": f"10.96.0.{number}", "port": 80, "backends": backends} | changes


def manifest(name: str, frontends: list[dict[str, Any]]) -> dict[str, Any]:
    """A ServiceLB."""
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "ServiceLB",
        "metadata": {"name": name},
        "spec": {"frontends": frontends},
    }


def write(path: Path, *documents: dict[str, Any]) -> None:
    """Replace a file whole, in the language of its name."""
    text = (
        json.dumps(documents[0]) if path.suffix == ".json" else yaml.safe_dump_all(documents, sort_keys=False)
    )
    path.with_name(".new").write_text(text)
    path.with_name(".new").replace(path)


def new_store(folder: Path) -> DirectoryStore:
    return DirectoryStore(folder, lambda: "2026-01-01T00:00:00Z")


def only(snapshot: Snapshot) -> tuple[Declared, Balanced]:
    """The one resource of a snapshot, and what it comes to."""
    (declared,) = snapshot.resources
    assert isinstance(declared.prepared, Balanced)
    return declared, declared.prepared


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_an_edit_of_one_frontend_keeps_the_others_as_they_are(tmp_path: Path, suffix: str) -> None:
    store, path = new_store(tmp_path), tmp_path / f"lb.{suffix}"
    frontends = [frontend(number) for number in range(1, 6)]
    write(path, manifest("lb", frontends))
    _, before = only(store.scan())
    frontends[2]["backends"][0]["port"] = 9090
    write(path, manifest("lb", frontends))
    declared, after = only(store.scan())
    assert declared.generation == 2
    same = [
        now is then for now, then in zip(after.frontends.values(), before.frontends.values(), strict=True)
    ]
    assert same == [True, True, False, True, True]
    assert list(after.frontends.values())[2].backends[0].port == 9090


def test_another_way_of_forwarding_reaches_every_frontend(tmp_path: Path) -> None:
    store, path = new_store(tmp_path), tmp_path / "lb.yaml"
    document = manifest("lb", [frontend(1, port=8080), frontend(2, port=8080)])
    write(path, document)
    _, before = only(store.scan())
    document["spec"]["forwarding"] = {"mode": "DSR"}
    write(path, document)
    _, after = only(store.scan())
    assert before.modes == {"SNAT"}
    assert after.modes == {"DSR-IPIP"}


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize(
    "wrong",
    [{"port": 80.0}, {"port": True}, {"port": "8O"}, {"wieght": 1}, {"address": "web"}, {"name": "f1"}],
)
def test_an_edit_that_is_wrong_is_refused_as_if_it_were_new(
    tmp_path: Path, suffix: str, wrong: dict[str, object]
) -> None:
    store, path = new_store(tmp_path), tmp_path / f"lb.{suffix}"
    good = manifest("lb", [frontend(1), frontend(2), frontend(3)])
    write(path, good)
    store.scan()
    bad = manifest("lb", [frontend(1), frontend(2, **wrong), frontend(3)])
    write(path, bad)
    snapshot = store.scan()
    assert only(snapshot)[0].generation == 1
    (tmp_path / "fresh").mkdir()
    write(tmp_path / "fresh" / path.name, bad)
    fresh = new_store(tmp_path / "fresh").scan()
    assert (
        [str(each.error) for each in snapshot.rejected] == [str(each.error) for each in fresh.rejected] != []
    )
    write(path, good)
    snapshot = store.scan()
    assert not snapshot.rejected
    assert only(snapshot)[0].generation == 3


def test_a_comment_is_no_edit(tmp_path: Path) -> None:
    store, path = new_store(tmp_path), tmp_path / "lb.yaml"
    write(path, manifest("lb", [frontend(1, port=0)]))
    assert [each.generation for each in store.scan().rejected] == [1]
    path.write_text(f"# why\n{path.read_text()}")
    assert [each.generation for each in store.scan().rejected] == [1]


def test_of_many_documents_in_a_file_only_the_edited_one_is_read_again(tmp_path: Path) -> None:
    store, path = new_store(tmp_path), tmp_path / "all.yaml"
    documents = [manifest(f"lb{n}", [frontend(10 * n + k) for k in range(4)]) for n in range(4)]
    write(path, *documents)
    before = store.scan().resources
    documents[1]["spec"]["frontends"][0]["port"] = 81
    write(path, *documents)
    after = store.scan().resources
    assert [new.prepared is old.prepared for new, old in zip(after, before, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    documents[2]["spec"]["frontends"][3]["port"] = (
        81  # parts of a document that was only passed by are known, too
    )
    write(path, *documents)
    again = store.scan().resources[2].prepared
    assert isinstance(again, Balanced)
    assert isinstance(after[2].prepared, Balanced)
    kept = zip(again.frontends.values(), after[2].prepared.frontends.values(), strict=True)
    assert [new is old for new, old in kept] == [True, True, True, False]


@pytest.mark.parametrize("text", [b'{"a": "\xff"}', b"[" * 100_000, b'{"a": 1'])
def test_json_that_is_none_disturbs_no_other_file(tmp_path: Path, text: bytes) -> None:
    store = new_store(tmp_path)
    (tmp_path / "bad.json").write_bytes(text)
    write(tmp_path / "good.json", manifest("lb", [frontend(1)]))
    snapshot = store.scan()
    assert only(snapshot)[0].key.name == "lb"
    assert [each.error.reason for each in snapshot.rejected] == ["InvalidJSON"]


edits = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from(
            ["port", "address", "name", "backends", "weight", "remove", "insert", "swap", "forwarding"]
        ),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


def edit(document: dict[str, Any], at: int, what: str, value: int) -> None:
    """Change a ServiceLB somehow; not always into a valid one."""
    frontends = document["spec"]["frontends"]
    if what == "forwarding":
        document["spec"]["forwarding"] = {"mode": "DSR" if value % 2 else "SNAT"}
    elif what == "insert":
        frontends.insert(at % (len(frontends) + 1), frontend(100 + value))
    elif not frontends:
        return
    elif what == "remove":
        del frontends[at % len(frontends)]
    elif what == "swap":
        frontends.append(frontends.pop(at % len(frontends)))
    elif what == "weight":
        frontends[at % len(frontends)]["backends"][0]["weight"] = [1, 0, 5, True, 1.0, -1, "1", 2, 3, 1000][
            value
        ]
    elif what == "backends":
        frontends[at % len(frontends)]["backends"] = frontend(value)["backends"][: value % 4] or [
            {"address": "x"}
        ]
    elif what == "address":
        frontends[at % len(frontends)]["address"] = ["::1", "10.96.0.1", "no"][value % 3]
    else:
        frontends[at % len(frontends)][what] = [1, 80, 8080, "f1", "f2"][value % 5]


def outcome(snapshot: Snapshot) -> list[object]:
    """All that follows from a snapshot but generations."""
    return [
        [(each.resource, each.prepared) for each in snapshot.resources],
        [(each.key, str(each.error), each.error.reason) for each in snapshot.rejected],
    ]


@settings(max_examples=60, deadline=None)
@given(edits, st.sampled_from(["lb.yaml", "lb.json"]))
def test_edits_one_after_another_come_to_what_the_last_text_says(
    changes: list[tuple[int, str, int]], name: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder))
        document = manifest("lb", [frontend(number, port=8080) for number in range(1, 5)])
        write(Path(folder, name), document)
        store.scan()
        for at, what, value in changes:
            document = copy.deepcopy(document)
            edit(document, at, what, value)
            write(Path(folder, name), document)
            followed = store.scan()
            with tempfile.TemporaryDirectory() as other:
                write(Path(other, name), document)
                fresh = new_store(Path(other)).scan()
            if fresh.rejected:
                assert outcome(followed)[1] == outcome(fresh)[1]
            else:
                assert outcome(followed) == outcome(fresh)

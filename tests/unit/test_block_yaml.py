"""What is read fast equals what PyYAML reads, or is left to it: on written, generated and broken text."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.store.block_yaml import UnusualError, read_block
from kubebee.store.manifests import ManifestError, alike, parse_documents
from kubebee.store.remembered import Remembered

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))

WORDS = r"""
a b name port true yes No on null ~ 1 -1 0 017 0x1f 1_000 1:20 190:20:30 1.5 .5 -.5 1e3 1.0e+3 .inf -.inf
.nan 2026-01-01 2026-01-01T10:20:30Z 10.96.0.1 2001:db8::1 ::1 fe80::/10 a:b a::b - -- --- ... .. . -a -
- ? ?a : :a a: a:b:c & &a *a !a !!str | > |- % @a `a a#b #a a' 'a' 'a''b' "a" "a\n" "a'b" 'a"b' '' "" {}
[] {a} [a] {a:1} << = app.kubernetes.io/name eth0 sched/sched_process_exec é "é" 'é' "" 'a # b' "a: b"
a\b a,b a] a} [a,b]
""".split()  # noqa: SIM905 (each on its own line would be longer)
VALUES = [
    "a b",
    "a  b",
    "a - b",
    "a # b",
    "a: b",
    "{a: b}",
    "{a: [1, 'x'], b: {c: true}}",
    "{a: b}: c",
    "[a]: [b]",
    "[a, b",
    "{a: *x}",
    "{<<: {a: 1}}",
    '{"a": "b: c", d: e}',
    "[]  # none",
    "a ",
    "\ta",
    "a\t",
    "a\r",
    "'a",
    "|\n    text",
    "a\n    b",
    "",
]


def expected(text: str) -> list[Any] | None:
    """What PyYAML reads; None where it refuses."""
    try:
        return [body for body in yaml.load_all(text.encode(), Loader=LOADER) if body is not None]
    except (yaml.YAMLError, ValueError):
        return None


def equal(one: object, other: object) -> bool:
    """Whether two values are alike in order, too, and NaN is NaN."""
    if isinstance(one, dict) and isinstance(other, dict) and list(map(repr, one)) != list(map(repr, other)):
        return False
    return alike(one, other) or repr(one) == repr(other)


def compare(text: str) -> None:
    """Check one text, as a document of its own and as a file."""
    whole = expected(text)
    with contextlib.suppress(UnusualError, ValueError):
        body = read_block(text)
        assert whole is not None, "PyYAML refuses it"
        assert equal([] if body is None else [body], whole)
    remembered = Remembered()
    for _ in range(2):  # parsed, then remembered
        remembered = Remembered(remembered.end())
        try:
            documents = [each.body for each in parse_documents("f.yaml", text.encode(), remembered)]
        except ManifestError:
            assert whole is None
        else:
            assert equal(documents, whole), whole


scalars = st.sampled_from([*WORDS, *VALUES])
lines = st.builds(
    lambda indent, dash, key, colon, value, end: f"{' ' * indent}{dash}{key}{colon}{value}{end}",
    st.sampled_from([0, 0, 2, 2, 4, 1, 3]),
    st.sampled_from(["", "", "- ", "-", "- - "]),
    st.sampled_from(["a", "b", "spec", "80", "yes", "x.y/z", '"q"', "? a", ""]),
    st.sampled_from([": ", ":", "", ":  "]),
    scalars,
    st.sampled_from(["", "", " # why", "#", " ", "\n", "\n\n", "\n# why"]),
)
marks = st.sampled_from(["---", "--- ", "--- a", "...", "# why", "", "  ", "%YAML 1.1"])


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(lines, lines, lines, marks), max_size=9))
def test_lines_in_any_order_read_as_by_pyyaml_or_not_at_all(text: list[str]) -> None:
    compare("\n".join(text))


keys = st.sampled_from(["a", "b", "80", "yes", "x.y/z"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(keys, min_size=1, max_size=3),
    st.lists(st.lists(scalars, min_size=3, max_size=3), min_size=8, max_size=12),
    st.lists(st.tuples(st.integers(0, 40), lines), max_size=2),
    st.sampled_from([0, 2]),
)
def test_many_items_with_the_same_keys_read_as_by_pyyaml_odd_lines_among_them(
    names: list[str], rows: list[list[str]], odd: list[tuple[int, str]], indent: int
) -> None:
    pad = " " * indent
    text = ["- x: 1", "  items:"]
    for row in rows:
        for index, (name, value) in enumerate(zip(names, row, strict=False)):
            text.append(f"  {pad}{' ' if index else '-'} {name}: {value}")
    for at, line in odd:
        text.insert(at, line)
    compare("\n".join(text))


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
)
bodies = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from([*WORDS, "spec", "items"]), inner, max_size=4),
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(bodies, min_size=1, max_size=3), st.sampled_from([None, False, True]), st.booleans())
def test_what_was_written_by_pyyaml_is_read_as_by_pyyaml(
    written: list[Any], flow: bool | None, indented: bool
) -> None:
    text: str = yaml.safe_dump_all(written, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    compare(text)
    if indented:
        compare("\n".join(f"  {line}" for line in text.split("\n")))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_examples_cut_and_mended_at_random_read_as_by_pyyaml(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(EXAMPLES)).read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        to = min(len(text), at + data.draw(st.integers(0, 8)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", " ", "\n", "- ", ": ", "#", "'", '"', "a", *WORDS]))
            + text[to:]
        )
    compare(text)


@pytest.mark.parametrize("value", [*WORDS, *VALUES])
def test_each_value_reads_as_by_pyyaml_wherever_it_stands(value: str) -> None:
    for text in (
        f"a: {value}",
        f"- {value}",
        f"- a: {value}\n  b: 1",
        f"{value}: a",
        f"a:\n- {value}\nb: 1",
        value,
    ):
        compare(text)


def test_a_manifest_is_read_without_pyyaml() -> None:
    text = """\
# A service.
apiVersion: kubebee.dev/v1alpha1
kind: ServiceLB
metadata: {name: shop}  # its name

spec:
  interfaces:
    names: [eth0, 'eth1']
  frontends:
  - name: web
    address: 10.96.0.1
    port: 80
    backends:
      - {address: 10.0.0.1, port: 8080}
      - address: "10.0.0.2"
        port: 8080
        weight: 3
"""
    body = read_block(text)
    assert body == yaml.safe_load(text)
    assert isinstance(body, dict)
    assert list(body["spec"]) == ["interfaces", "frontends"]


def test_lists_in_many_items_with_the_same_keys_are_not_shared() -> None:
    text = "- items:\n" + "".join(f"  - a: [1]\n    b: {number}\n" for number in range(20))
    body = read_block(text)
    assert body == yaml.safe_load(text)
    assert isinstance(body, list)
    items = body[0]["items"]
    assert items[0]["a"] is not items[1]["a"]


def test_dates_and_numbers_are_what_yaml_1_1_says() -> None:
    assert read_block("a: 2026-01-01\nb: 010\nc: yes\nd: 1:30\n") == {
        "a": datetime.date(2026, 1, 1),
        "b": 8,
        "c": True,
        "d": 90,
    }


@pytest.mark.parametrize(
    "text", ["a: &x b", "a: |\n  b\n", "a: b\n  c\n", "a:\tb", "a: b\r\n", "a: 'b\n  c'", "? a"]
)
def test_what_is_beyond_the_subset_is_left_to_pyyaml(text: str) -> None:
    with pytest.raises(UnusualError):
        read_block(text)


def test_nesting_without_end_is_left_to_pyyaml() -> None:
    with pytest.raises(UnusualError):
        read_block("".join(f"{' ' * depth}a:\n" for depth in range(2000)))

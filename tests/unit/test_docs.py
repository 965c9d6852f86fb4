"""The documents agree with the code and the tree: links, reasons, tests, manifests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kubebee.api.parse import parse_resource
from kubebee.cli.exit_codes import Exit
from kubebee.planner.prepare import prepare

ROOT = Path(__file__).parents[2]
CODE = ROOT / "operator" / "kubebee"
DOCS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
REASON = re.compile(r"[A-Z][a-z]+[A-Za-z0-9]*")
# Calls that take a reason without naming the argument: function -> its place.
POSITIONAL = {"Failure": 1, "_tell": 1, "conditions": 1}


# -- links ---------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@EVERY_DOCUMENT
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


# -- reasons -------------------------------------------------------------------------------------------------


def words(node: ast.expr | None) -> Iterator[str]:
    """CamelCase words that an expression may be."""
    if isinstance(node, ast.IfExp):
        yield from words(node.body)
        yield from words(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and REASON.fullmatch(node.value):
        yield node.value


def reasons_at(node: ast.AST, file: str) -> Iterator[str]:
    """Reasons that one piece of code sets."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for keyword in node.keywords:
            if keyword.arg == "reason":
                yield from words(keyword.value)
        place = 0 if (name, file) == ("Problem", "features.py") else POSITIONAL.get(name)
        if place is not None and len(node.args) > place:
            yield from words(node.args[place])
    elif isinstance(node, ast.Assign) and any(getattr(each, "id", "") == "reason" for each in node.targets):
        yield from words(node.value)
    elif isinstance(node, ast.FunctionDef) and (node.name.endswith("reason") or node.name == "_idle"):
        for each in ast.walk(node):
            if isinstance(each, ast.Return):
                yield from words(each.value)


def reasons_in_code() -> set[str]:
    return {
        reason
        for path in CODE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for reason in reasons_at(node, path.name)
    }


def reasons_in_docs() -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    return re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)


def test_every_reason_is_explained_once_and_none_is_made_up() -> None:
    documented = reasons_in_docs()
    assert sorted(documented) == sorted(reasons_in_code())


# -- features ------------------------------------------------------------------------------------------------


def feature_rows(path: Path) -> list[tuple[str, str, str]]:
    """(feature, works, tests) of every row of the feature tables."""
    rows = re.findall(r"^\| (.+?) \| ((?:yes|no|partly)\b.*?) \| (.*?)\s*\|$", path.read_text(), re.MULTILINE)
    return [(feature, works, tests) for feature, works, tests in rows]


@pytest.mark.parametrize("file", ["docs/status.md", "README.md"])
def test_features_that_work_name_tests_that_exist(file: str) -> None:
    rows = feature_rows(ROOT / file)
    assert rows
    for feature, works, tests in rows:
        named = re.findall(r"`(tests/[^`]+)`", tests)
        assert bool(named) == (not works.startswith("no")), feature
        for each in named:
            path, _, test = each.partition("::")
            assert (ROOT / path).is_file(), each
            assert not test or re.search(
                rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE
            ), each


def test_every_file_named_in_the_documents_exists() -> None:
    for path in DOCS:
        for name in re.findall(
            r"`((?:tests|docs|templates|benchmarks|examples)/[\w./-]+\.\w+)", path.read_text()
        ):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


# -- manifests and the command line --------------------------------------------------------------------------


@EVERY_DOCUMENT
def test_manifests_in_the_documents_are_accepted(path: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and {"apiVersion", "kind"} <= document.keys():
                prepare(parse_resource(document, path.name))


def test_the_exit_statuses_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    numbers = re.findall(r"^\| (\d) \|", text, flags=re.MULTILINE)
    assert [int(number) for number in numbers] == [status.value for status in Exit]

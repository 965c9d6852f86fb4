"""Helm of both major versions, and what it makes of the chart."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helm.binaries import MAJORS, build
from helm.manifests import render

_HERE = Path(__file__).parent
Document = dict[str, Any]
Rendered = Callable[..., list[Document]]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build Helm before the first test, as it may take minutes and no test's time."""
    wanted = any(item.path.is_relative_to(_HERE) for item in session.items)
    if wanted and not session.config.option.collectonly:
        for major in MAJORS:
            build(major)


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"helm{major}")
def program(request: pytest.FixtureRequest) -> Path:
    """Helm."""
    return build(request.param)


_render = functools.cache(render)


@pytest.fixture
def rendered(program: Path) -> Rendered:
    """Objects of the chart with the options given, such as `--set x=y`."""
    return lambda *options: copy.deepcopy(_render(program, *options))

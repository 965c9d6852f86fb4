"""Helm of both major versions, and what it makes of the chart."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helm.binaries import MAJORS, build
from helm.manifests import render

Document = dict[str, Any]
Rendered = Callable[..., list[Document]]


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"helm{major}")
def program(request: pytest.FixtureRequest) -> Path:
    """Helm."""
    return build(request.param)


_render = functools.cache(render)


@pytest.fixture
def rendered(program: Path) -> Rendered:
    """Objects of the chart with the options given, such as `--set x=y`."""
    return lambda *options: copy.deepcopy(_render(program, *options))

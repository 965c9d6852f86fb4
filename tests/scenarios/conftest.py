"""What scenarios share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from support.api_server import ApiServer
from support.node_agent import NodeAgent, served
from support.site import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A kubebee that runs one good resource of each kind; shared by the tests of a module."""
    with running_site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def api(lab: Lab) -> Iterator[ApiServer]:
    """An API server that the lab's node reaches."""
    with served(lab) as server:
        yield server


@pytest.fixture
def agent(lab: Lab, api: ApiServer, tmp_path: Path) -> Iterator[NodeAgent]:
    """A node's agent, not started; none is left afterwards."""
    made = NodeAgent(lab, api, tmp_path)
    yield made
    if made.process is not None:
        made.kill()

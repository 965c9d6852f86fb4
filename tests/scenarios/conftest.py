"""What scenarios share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.site import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A kubebee that runs one good resource of each kind; shared by the tests of a module."""
    with running_site(tmp_path_factory.mktemp("site")) as made:
        yield made

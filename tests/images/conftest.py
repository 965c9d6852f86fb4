"""The images of this tree, built if they are not there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.build import Image, build
from images.container import file_system

_HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build them before the first test, as it may take minutes and no test's time."""
    wanted = any(item.path.is_relative_to(_HERE) for item in session.items)
    if wanted and os.geteuid() == 0 and not session.config.option.collectonly:
        build()


@pytest.fixture(scope="session")
def images() -> tuple[Image, Image]:
    """The controller's and the loader's: minutes the first time, then what changed."""
    controller, loader = build()
    return controller, loader


@pytest.fixture(scope="session")
def controller_files(images: tuple[Image, Image]) -> Iterator[Path]:
    """Root of the controller's file system."""
    with file_system(images[0]) as root:
        yield root


@pytest.fixture(scope="session")
def loader_files(images: tuple[Image, Image]) -> Iterator[Path]:
    """Root of the loader's file system."""
    with file_system(images[1]) as root:
        yield root

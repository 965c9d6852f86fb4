"""The images of this tree, built if they are not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from images.build import Image, build
from images.container import file_system


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

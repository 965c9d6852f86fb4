"""The node's files as a pod sees them: below a folder of mounts, symbolic links and all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kubebee.bpf.libraries import LibraryError
from kubebee.loader.host_files import HostFileError, HostFiles

LIBRARY = "usr/lib/x86_64-linux-gnu/libfoo.so.1.2"


@pytest.fixture
def node(tmp_path: Path) -> HostFiles:
    """A node's root with one library and links to it."""
    file = tmp_path / LIBRARY
    file.parent.mkdir(parents=True)
    file.write_text("ELF")
    (file.parent / "libfoo.so.1").symlink_to("libfoo.so.1.2")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/foo").symlink_to(f"/{LIBRARY}")
    (tmp_path / "usr/bin/up").symlink_to(f"../../../../../{LIBRARY}")
    (tmp_path / "usr/bin/round").symlink_to("round")
    (tmp_path / "lib").symlink_to("usr/lib")
    return HostFiles(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        f"/{LIBRARY}",
        "/usr/lib/x86_64-linux-gnu/libfoo.so.1",
        "/lib/x86_64-linux-gnu/libfoo.so.1",
        "/usr/bin/foo",
        "/usr/bin/up",
        f"/../{LIBRARY}",
    ],
)
def test_paths_and_links_lead_to_files_of_the_node(node: HostFiles, path: str) -> None:
    assert node.file(path) == node.root / LIBRARY


def test_a_link_never_leads_to_a_file_of_ones_own(node: HostFiles) -> None:
    shell = Path("/bin/sh").resolve()
    (node.root / "usr/bin/sh").symlink_to(shell)
    with pytest.raises(HostFileError):
        node.file("/usr/bin/sh")


@pytest.mark.parametrize("path", ["/usr/bin/none", "/usr/bin", "/usr/bin/round"])
def test_what_is_not_there_is_named_with_what_is_seen(node: HostFiles, path: str) -> None:
    with pytest.raises(HostFileError, match=f"{path}.*loader.hostPaths.*: /lib, /usr"):
        node.file(path)


def test_without_any_folder_nothing_is_seen(tmp_path: Path) -> None:
    with pytest.raises(HostFileError, match=r"loader\.hostPaths.*: nothing"):
        HostFiles(tmp_path / "host").file("/usr/bin/true")


def test_outside_of_pods_a_path_is_what_it_is() -> None:
    assert HostFiles().file("/bin/sh") == Path("/bin/sh")
    with pytest.raises(HostFileError, match="correct the path"):
        HostFiles().file("/bin/no-such-file")


@pytest.mark.parametrize("name", ["libfoo", "libfoo.so", "libfoo.so.1"])
def test_libraries_are_found_in_the_usual_folders_without_a_cache(node: HostFiles, name: str) -> None:
    assert node.file(node.library(name)) == node.root / LIBRARY


def test_the_cache_of_the_node_s_linker_counts_where_it_is_seen(node: HostFiles) -> None:
    (node.root / "etc").mkdir()
    shutil.copy("/etc/ld.so.cache", node.root / "etc")
    assert "libc.so.6" in node.library("libc")
    with pytest.raises(LibraryError, match=r"loader\.hostPaths"):
        node.library("libfoo")

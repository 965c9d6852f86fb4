"""What the images have in them, and that they run as the chart runs them."""

import json
import re
import tarfile
import tomllib
from pathlib import Path

import pytest

from images import inputs, layers
from images.build import Image, epoch
from images.container import LOADER_CAPABILITIES, Container
from kernels.packages import archive_uri

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

COMPILES = """
from pathlib import Path
from kubebee.toolchain import isolation
from kubebee.toolchain.compile import CompileRequest, compile_c
source = '#include "vmlinux.h"\\n#include <bpf/bpf_helpers.h>\\nchar _license[] SEC("license") = "GPL";\\n'
result = compile_c(CompileRequest(source), Path("/var/lib/kubebee"))
print(isolation.choose().name, result.elf[:4], result.warnings)
"""


@pytest.fixture
def loader(loader_files: Path, tmp_path: Path) -> Container:
    return Container(loader_files, 0, LOADER_CAPABILITIES, {"/var/lib/kubebee": tmp_path})


@pytest.fixture
def controller(controller_files: Path) -> Container:
    return Container(controller_files)


def packages(root: Path) -> set[str]:
    return {
        path.name.partition("-")[0]
        for path in root.glob("opt/kubebee/lib/python3*/site-packages/*.dist-info")
    }


def test_the_loader_has_no_client_library_of_kubernetes(loader_files: Path) -> None:
    assert "aiohttp" in packages(loader_files)
    assert packages(loader_files) & {"kopf", "kubernetes"} == set()


def test_the_controller_has_no_compiler(controller_files: Path) -> None:
    assert {"kopf", "kubernetes"} <= packages(controller_files)
    found = [path.name for path in (controller_files / "usr" / "bin").iterdir()]
    assert [name for name in found if re.match(r"(clang|gcc|cc|tcc|ld|as|bpftool)(-|$)", name)] == []


@pytest.mark.parametrize("files", ["controller_files", "loader_files"])
def test_no_address_of_a_mirror_and_no_secret_is_in_an_image(
    files: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(files)
    assert list((root / "etc" / "apt").glob("sources.list*/*")) == []
    assert list((root / "var" / "lib" / "apt" / "lists").glob("*_*")) == []
    assert not (root / "run" / "secrets").exists() or list((root / "run" / "secrets").iterdir()) == []
    mirrors = [archive_uri("trixie").encode(), archive_uri("trixie-security").encode()]
    for path in (path for folder in ("etc", "opt") for path in (root / folder).rglob("*") if path.is_file()):
        assert not [uri for uri in mirrors if uri in path.read_bytes()], path


def test_every_file_and_layer_has_the_one_date(images: tuple[Image, Image]) -> None:
    for image in images:
        dates = {mark.split()[2] for _, _, mark in layers.files(image.archive)}
        assert dates == {str(epoch())}, image.name


def test_byte_code_does_not_depend_on_dates(controller_files: Path) -> None:
    compiled = list(controller_files.glob("opt/kubebee/lib/python3*/site-packages/kubebee/**/*.pyc"))
    assert compiled
    for path in compiled:
        # PEP 552: flags after the magic number; 1: by hash, not checked against the source.
        assert path.read_bytes()[4:8] == b"\x01\x00\x00\x00", path


def test_the_images_have_every_package_of_the_tree(controller_files: Path, loader_files: Path) -> None:
    listed = set(
        tomllib.loads((inputs.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    folders = {path.parent for path in (inputs.ROOT / "operator" / "kubebee").rglob("*.py")}
    here = {".".join(path.relative_to(inputs.ROOT / "operator").parts) for path in folders}
    assert here <= listed, "add it to packages in pyproject.toml"
    for root in (controller_files, loader_files):
        (site,) = root.glob("opt/kubebee/lib/python3*/site-packages")
        assert [name for name in here if not (site / name.replace(".", "/")).is_dir()] == []
        assert list((site / "kubebee" / "lb").glob("_maglev.*.so"))


def test_the_configuration_says_who_runs_and_what(images: tuple[Image, Image]) -> None:
    seen = []
    for image in images:
        with tarfile.open(image.archive) as archive:
            (manifest,) = json.load(archive.extractfile("manifest.json"))
            config = json.load(archive.extractfile(manifest["Config"]))["config"]
        assert f"docker.io/library/{image.name}" in manifest["RepoTags"]
        seen.append((config["User"], *config["Entrypoint"], *config["Cmd"]))
    assert seen == [
        ("65532:65532", "/opt/kubebee/bin/kubebee", "controller"),
        ("0:0", "/opt/kubebee/bin/kubebee", "agent"),
    ]


@pytest.mark.parametrize("part", ["loader", "controller"])
def test_it_starts_from_a_read_only_root(part: str, request: pytest.FixtureRequest) -> None:
    container: Container = request.getfixturevalue(part)
    done = container.run("kubebee", "--version")
    assert done.stdout == f"kubebee {inputs.version()}\n", done.stderr


def test_the_controller_knows_its_verbs(controller: Container) -> None:
    for verb in ("controller", "uninstall"):
        done = controller.run("kubebee", verb, "--help")
        assert done.returncode == 0, done.stderr
        assert "--namespace" in done.stdout


def test_the_loader_compiles_with_three_capabilities(loader: Container) -> None:
    done = loader.run("/opt/kubebee/bin/python3", "-c", COMPILES)
    assert done.stdout == "LANDLOCK b'\\x7fELF' ()\n", done.stderr


def test_the_loader_has_the_templates(loader: Container) -> None:
    done = loader.run("kubebee", "template", "list")
    assert "xdp-counter" in done.stdout, done.stderr


def test_the_loader_has_libbpf_and_bpftool(loader: Container) -> None:
    done = loader.run("bpftool", "version")
    assert done.returncode == 0, done.stderr
    assert "using libbpf" in done.stdout

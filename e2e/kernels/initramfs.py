"""The first file system of a virtual machine: busybox, the modules to reach the real one, and init.sh."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

from kernels.packages import KernelImage, run

# Only what is needed to mount this machine's root; all others are loaded from there.
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_BUSYBOX = Path("/bin/busybox")


def build(kernel: KernelImage, folder: Path) -> Path:
    """Write initramfs.cpio into `folder` and return its path."""
    tree = folder / "initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    for directory in ("bin", "modules", "proc", "sys", "dev", "lower", "upper", "root"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(_BUSYBOX, tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    order = []
    for path in _needed_modules(kernel):
        data = path.read_bytes()
        name = path.name.removesuffix(".xz")
        (tree / "modules" / name).write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)
        order.append(f"{name}\n")
    (tree / "modules" / "order").write_text("".join(order))
    init = tree / "init"
    shutil.copy(Path(__file__).with_name("init.sh"), init)
    init.chmod(0o755)
    names = subprocess.run(["find", ".", "-print0"], cwd=tree, capture_output=True, check=True).stdout
    archive = folder / "initramfs.cpio"
    with archive.open("wb") as output:
        subprocess.run(
            ["cpio", "--null", "--create", "--quiet", "--format=newc"],
            cwd=tree,
            input=names,
            stdout=output,
            check=True,
        )
    return archive


def _needed_modules(kernel: KernelImage) -> list[Path]:
    """Files of the modules and of what they need, in the order to load them; built-in ones have none."""
    found: dict[Path, None] = {}
    for module in _MODULES:
        shown = run(
            [
                "modprobe",
                "--dirname",
                str(kernel.root),
                "--set-version",
                kernel.release,
                "--show-depends",
                module,
            ]
        )
        for line in shown.splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod":
                found[Path(path.split()[0])] = None
    return list(found)

"""tools/setup on machines that cannot run kubebee: one line on what to do, exit code 1, nothing installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.root  # to make a machine look poorer takes a mount namespace

SETUP = Path(__file__).parents[2] / "tools" / "setup"
IN_OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]


@pytest.mark.parametrize(
    ("poorer", "says"),
    [
        (["setpriv", "--reuid", "65534", "--clear-groups"], "not root"),
        (["setarch", "--uname-2.6"], "is too old: boot 5.10 or later"),
        ([*IN_OWN_MOUNTS, 'mount -t tmpfs none /sys/kernel/btf && exec "$0"'], "CONFIG_DEBUG_INFO_BTF"),
        (
            [*IN_OWN_MOUNTS, 'mount --bind /dev/null /proc/filesystems && exec "$0"'],
            "no bpf file system: boot a kernel with CONFIG_BPF_SYSCALL",
        ),
    ],
    ids=["not root", "old kernel", "no BTF", "no bpffs"],
)
def test_setup_says_in_one_line_what_the_machine_lacks(poorer: list[str], says: str) -> None:
    done = subprocess.run([*poorer, str(SETUP)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: ")
    assert says in line

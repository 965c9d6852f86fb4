"""A virtual machine that runs one command on this machine's files, under another kernel."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels import initramfs
from kernels.packages import KernelImage, KernelTestError

# The default list of Debian's kernels ends in bpf, yet their default boot leaves it out where apparmor is on.
_BOOT = "console=ttyS0 quiet panic=-1 oops=panic lsm=landlock,lockdown,yama,apparmor,bpf"
# A guest's time goes by the instructions that it ran, 2 ns each: on a busy machine no deadline of its passes
# for want of a CPU. With more than one processor it would hang while it starts the second.
_CLOCK = ("-icount", "shift=1", "-smp", "1")
_SLOWEST = 10
"""Seconds of ours that one of the guest's may take."""
_EXIT = b"kernel-test-exit: "
_JOB = """#!/bin/sh
export HOME=/root PATH={path} LANG=C.UTF-8 TERM=dumb KUBEBEE_TEST_PATIENCE=5
cd {folder} && timeout --kill-after=5 {seconds} {command}
echo "kernel-test-exit: $?"
sleep 1 # the serial port has a buffer
echo b >/proc/sysrq-trigger # qemu -no-reboot ends here
sleep 60
"""


@dataclass(frozen=True)
class Outcome:
    """How the command ended, or why it never got to that."""

    code: int
    why: str
    seconds: float


def run_in(kernel: KernelImage, command: Sequence[str], folder: Path, scratch: Path, seconds: int) -> Outcome:
    """Boot the kernel, run `command` in `folder` as root, copy what it prints to stdout, turn it off.

    Args:
        kernel: what to boot.
        command: argv; sees this machine's files, and what it writes is gone afterwards.
        folder: its working directory.
        scratch: a folder of this run alone, for the initramfs and the job.
        seconds: deadline for all, of the guest's time.
    """
    job = scratch / "job"
    job.mkdir()
    path = f"{folder}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    (job / "main").write_text(
        _JOB.format(path=path, folder=shlex.quote(str(folder)), seconds=seconds, command=shlex.join(command))
    )
    (job / "config").write_bytes((kernel.root / "boot" / f"config-{kernel.release}").read_bytes())
    argv = _qemu(kernel, initramfs.build(kernel, scratch), job)
    start = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        printed = _copy(process, start + seconds * _SLOWEST)
    finally:
        process.kill()
        process.wait()
    took = time.monotonic() - start
    last = printed.rpartition(_EXIT)[2].split(b"\n")[0].strip().decode() if _EXIT in printed else ""
    if last.isdecimal():
        return Outcome(int(last), "", took)
    return Outcome(1, last or "the machine ended, or was stopped at its deadline, without a result", took)


def _copy(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Pass the serial port on to stdout until the machine is off or the deadline; returns all of it."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    printed = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left)[0]:
            break
        piece = os.read(fd, 1 << 16)
        if not piece:
            break
        printed += piece.replace(b"\r", b"")
        sys.stdout.buffer.write(piece.replace(b"\r", b""))
        sys.stdout.buffer.flush()
    return bytes(printed)


def _qemu(kernel: KernelImage, first: Path, job: Path) -> list[str]:
    shares = {"root": Path("/"), "modules": kernel.root / "lib" / "modules" / kernel.release, "job": job}
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-machine", "q35", "-accel", os.environ.get("KERNELS_ACCEL", "tcg"), *_CLOCK, "-cpu", "max"]
    argv += ["-m", "2048", "-serial", "stdio"]
    argv += ["-kernel", str(kernel.vmlinuz), "-initrd", str(first), "-append", _BOOT]
    for tag, path in shares.items():
        options = "security_model=passthrough,readonly=on,multidevs=remap"
        argv += ["-virtfs", f"local,id={tag},path={path},mount_tag={tag},{options}"]
    if not kernel.vmlinuz.is_file():
        raise KernelTestError(f"no kernel at {kernel.vmlinuz}")
    return argv

"""``make test-kernels``: the tests that say what works where, on Debian's 6.1, 6.12 and 5.10 under qemu.

``python -m kernels [VERSION...] [-- COMMAND...]``; without a command, the tests below. Exit code 0: they
passed on every kernel.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from pathlib import Path

from kernels.machine import run_in
from kernels.packages import SUITES, KernelTestError, fetch, folder_of_run, run

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".build" / "kernels"
TESTS = ("tests/scenarios/test_other_kernels.py",)
SECONDS = 1500
_DEBIAN_PACKAGES = ("qemu-system-x86", "busybox-static", "cpio", "kmod", "xz-utils")


def install_packages() -> None:
    """Install what only these tests need."""
    shown = "${Package} ${db:Status-Status}\n"
    installed = run(["dpkg-query", "-W", "-f", shown])
    missing = [name for name in _DEBIAN_PACKAGES if f"{name} installed\n" not in installed]
    if missing:
        print(f"kernels: Debian packages to install: {' '.join(missing)}")
        options = ["-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
        run(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", *options, *missing])


def _all_tests() -> list[str]:
    """What every kernel shall do: verify all that may be rendered, compiled here, and run the tests."""
    folder = CACHE / "objects"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    modules = f"PYTHONPATH={ROOT / 'e2e'}:{ROOT / 'tests'}"
    every = ["env", modules, sys.executable, "-m", "support.every_object"]
    print("kernels: compile what may be rendered", flush=True)
    run([*every, "compile", str(folder)])
    tests = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *TESTS]
    load = shlex.join([*every, "load", str(folder)])
    return ["sh", "-c", f"{load}; refused=$?; {shlex.join(tests)} && exit $refused"]


def main(args: list[str]) -> int:
    """Run the command on each kernel asked for."""
    at = args.index("--") if "--" in args else len(args)
    versions, command = args[:at] or list(SUITES), args[at + 1 :]
    if unknown := set(versions) - set(SUITES):
        print(f"kernels: no {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    failed = []
    try:
        install_packages()
        command = command or _all_tests()
        for version in versions:
            kernel = fetch(version, CACHE)
            print(f"kernels: {kernel.release}", flush=True)
            with folder_of_run(CACHE / version) as scratch:
                outcome = run_in(kernel, command, ROOT, scratch, SECONDS)
            said = outcome.why or f"exit code {outcome.code}"
            print(f"kernels: {kernel.release}: {said}, {outcome.seconds:.0f} s", flush=True)
            if outcome.code:
                failed.append(kernel.release)
    except KernelTestError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"kernels: failed on {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the machine ends with us
    sys.exit(main(sys.argv[1:]))

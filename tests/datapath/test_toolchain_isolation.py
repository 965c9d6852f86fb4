"""What keeps a compiler apart in a pod that has BPF, PERFMON and NET_ADMIN and nothing else."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kubebee.toolchain import confine, isolation
from kubebee.toolchain.compile import CompileRequest, compile_c

# A container's process as the chart asks for it; setpriv is what container runtimes do, by hand.
AS_A_POD = ("setpriv", "--bounding-set=-all,+bpf,+perfmon,+net_admin", "--inh-caps=-all", "--no-new-privs")
# Makes one call, given the parent's pid and a file, and prints the error's number, or 0.
PROBE = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int parent = atoi(argv[1]);
	char *file = argv[2];
	struct rlimit none = {0, 0};
	unsigned int header[2] = {0x20080522, 0}, capabilities[6] = {0};

	(void)argc; (void)parent; (void)file; (void)none; (void)header; (void)capabilities;
	printf("%d\\n", (CALL) < 0 ? errno : 0);
	return 0;
}
"""
Probe = Callable[[str, Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """A C expression, evaluated in a process that is kept apart as the compiler is."""

    def run(call: str, readable: Path) -> subprocess.CompletedProcess[str]:
        program, mine = tmp_path / "probe", tmp_path / "mine"
        mine.write_text("kept")
        mine.chmod(0o644)
        build = ("gcc", "-w", f"-DCALL={call}", "-x", "c", "-", "-o", str(program))
        subprocess.run(build, input=PROBE, text=True, check=True, timeout=30)
        read = [word for path in ("/usr", "/lib", "/lib64", readable) for word in ("--read", str(path))]
        command = (*AS_A_POD, sys.executable, "-I", "-S", confine.__file__, *read, "--")
        arguments = (str(program), str(os.getpid()), str(mine))
        return subprocess.run((*command, *arguments), capture_output=True, text=True, check=False, timeout=30)

    return run


def test_a_pod_with_three_capabilities_compiles() -> None:
    code = (
        "from kubebee.toolchain import isolation\n"
        "from kubebee.toolchain.compile import CompileRequest, compile_c\n"
        "from pathlib import Path; import tempfile\n"
        "source = '#include \"vmlinux.h\"\\nint number = 1;\\n'\n"
        "with tempfile.TemporaryDirectory() as cache:\n"
        "    print(isolation.choose().name, compile_c(CompileRequest(source), Path(cache)).elf[:4])\n"
    )
    command = (*AS_A_POD, sys.executable, "-c", code)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "LANDLOCK b'\\x7fELF'\n", done.stderr


@pytest.mark.parametrize(
    "call",
    [
        "fork()",
        "syscall(SYS_clone3, 0, 0)",
        "kill(parent, 0)",
        "fcntl(0, F_SETOWN, parent)",
        "chmod(file, 0777)",
        "chown(file, 1, 1)",
        "utimes(file, 0)",
        "truncate(file, 0)",
        "unlink(file)",
        "setpriority(PRIO_PROCESS, parent, 5)",
        "prlimit(parent, RLIMIT_NOFILE, &none, 0)",
        "socket(AF_INET, SOCK_STREAM, 0)",
        "socket(AF_UNIX, SOCK_STREAM, 0)",
        "syscall(SYS_bpf, 5, 0, 0)",
        "syscall(SYS_perf_event_open, 0, 0, -1, -1, 0)",
        "syscall(SYS_ptrace, 16, parent, 0, 0)",
        "syscall(SYS_capset, header, capabilities)",
        "unshare(CLONE_NEWUSER)",
        "open(file, O_WRONLY)",
        'open("/etc/shadow", O_RDONLY)',
        'open("/", O_RDONLY | O_DIRECTORY)',
        'open("/proc/1/environ", O_RDONLY)',
        'open("/usr/made", O_CREAT | O_WRONLY, 0600)',
    ],
)
def test_a_confined_process_is_refused(probe: Probe, tmp_path: Path, call: str) -> None:
    done = probe(call, tmp_path)
    assert done.stdout in ("1\n", "13\n"), f"neither EPERM nor EACCES: {done}"
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_confined_process_reads_what_it_is_given_and_limits_itself(probe: Probe, tmp_path: Path) -> None:
    assert probe("open(file, O_RDONLY)", tmp_path).stdout == "0\n"
    assert probe("prlimit(0, RLIMIT_CORE, &none, 0)", tmp_path).stdout == "0\n"


def test_folders_of_killed_processes_are_removed_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(isolation, "choose", lambda: isolation.Isolation.LANDLOCK)
    old, new = tmp_path / "kubebee-compile-old", tmp_path / "kubebee-compile-new"
    for folder in (old, new):
        (folder / "src").mkdir(parents=True)
    os.utime(old, (0, 0))
    compile_c(CompileRequest("int number = 1;\n"), tmp_path / "cache")
    assert (old.exists(), new.exists()) == (False, True)


def test_it_says_so_if_it_cannot_be_confined(probe: Probe, tmp_path: Path) -> None:
    done = probe("0", tmp_path / "missing")
    assert done.returncode == confine.FAILED
    assert done.stderr.startswith(confine.PREFIX)


def test_the_filter_lets_no_call_of_another_architecture_pass() -> None:
    load_architecture, same_goes_on, kill = (
        confine.seccomp_program("aarch64")[at : at + 8] for at in (0, 8, 16)
    )
    assert load_architecture == bytes.fromhex("2000000004000000")
    assert same_goes_on == bytes.fromhex("15000100b70000c0")
    assert kill == bytes.fromhex("0600000000000080")

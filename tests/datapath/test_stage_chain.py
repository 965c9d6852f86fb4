"""Objects become stages of one XDP program: linked, verified and run by the kernel."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kubebee.bpf.elf import ElfError, parse_elf
from kubebee.bpf.linker import LinkError, link
from kubebee.bpf.map import Map
from kubebee.bpf.object import BpfObject, LoadError
from kubebee.bpf.stage import StageError, as_stage, stage_maps, stage_symbol

pytestmark = pytest.mark.root

PACKET = bytes(64)
GO_ON = 0xFFFFFFFF

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
"""

COUNTING = """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
	counts SEC(".maps");
__u64 seen;                                  /* .bss */
int step = %(step)d;                         /* .data */
const volatile int verdict = %(verdict)d;    /* .rodata */
static __u32 noted;

static __attribute__((noinline)) int note(void *value)
{
	noted++;
	*(__u64 *)value += step;
	return verdict;
}

SEC("%(section)s")
int run(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&counts, &zero);

	(void)ctx;
	seen++;
	return value ? note(value) : 0;
}
"""


@functools.cache
def compiled(source: str, *options: str) -> bytes:
    command = [
        "clang-19", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
        "-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu", *options,
        "-x", "c", "-c", "-", "-o", "/dev/stdout",
    ]  # fmt: skip
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def counting(step: int, verdict: int, section: str = "xdp") -> bytes:
    return compiled(HEAD + COUNTING % {"step": step, "verdict": verdict, "section": section})


def dispatcher(*symbols: str) -> bytes:
    """Calls the stages in order until one's verdict is not "go on"; XDP_PASS if none decides."""
    externs = "".join(f"extern int {symbol}(struct xdp_md *ctx);\n" for symbol in symbols)
    calls = "".join(f"v = {symbol}(ctx); if (v != -1) return v;\n" for symbol in symbols)
    body = f'SEC("xdp") int chain(struct xdp_md *ctx) {{ int v;\n{calls} return XDP_PASS; }}'
    return compiled(HEAD + externs + body)


def chain(*stages: tuple[bytes, str, str]) -> bytes:
    """Link (object, entry, prefix)s behind a dispatcher."""
    calls = dispatcher(*(stage_symbol(entry, prefix) for _, entry, prefix in stages))
    return link([calls, *(as_stage(*stage) for stage in stages)])


@contextmanager
def loaded(elf: bytes, reuse: dict[str, Map] | None = None) -> Iterator[BpfObject]:
    obj = BpfObject.open(elf)
    try:
        for name, map_ in (reuse or {}).items():
            obj.maps[name].reuse_fd(map_.fd)
        obj.load()
        yield obj
    finally:
        obj.close()


def run(obj: BpfObject, program: str = "chain") -> int:
    with obj.programs[program].duplicate() as loaded_program:
        return loaded_program.test_run(PACKET).retval


def number(obj: BpfObject, name: str) -> int:
    with obj.maps[name].duplicate() as map_:
        value = map_.lookup(bytes(4))
    assert value is not None
    return int.from_bytes(value[:8], "little")


def test_two_stages_of_one_source_keep_their_own_maps_and_variables() -> None:
    both = chain((counting(1, -1), "run", "a"), (counting(10, 3), "run", "b"))
    with loaded(both) as obj:
        assert [run(obj), run(obj)] == [3, 3]
        assert (number(obj, "a_counts"), number(obj, "b_counts")) == (2, 20)
        assert number(obj, ".data.a") == 1
        assert number(obj, ".data.b") == 10
        # .bss holds the exported and the static variable
        assert number(obj, ".bss.a") in (2, 2 | 2 << 32)


def test_maps_are_taken_over_by_descriptor() -> None:
    names = stage_maps(counting(1, -1), "a")
    assert names == {"counts": "a_counts", ".data": ".data.a", ".rodata": ".rodata.a", ".bss": ".bss.a"}
    with loaded(counting(7, 2)) as alone:
        kept = {names[name]: alone.maps[name].duplicate() for name in names}
        with loaded(chain((counting(1, -1), "run", "a")), reuse=kept) as obj:
            assert run(obj) == 2  # the kept .rodata's verdict, not the new object's
            assert number(obj, "a_counts") == 7
        for map_ in kept.values():
            map_.close()


def test_own_text_section_callbacks_strings_and_other_programs() -> None:
    source = """
    static const char *const words[] = {"one", "two"};
    __u32 hits;
    static long step(__u32 i, void *ctx) { *(__u32 *)ctx += i; return 0; }
    __attribute__((noinline)) int length(__u32 i) { return words[i & 1][0]; }
    extern int LINUX_KERNEL_VERSION __kconfig;
    SEC("tc") int other(struct __sk_buff *skb) { return skb->len + LINUX_KERNEL_VERSION; }
    static SEC("xdp.frags") __attribute__((noinline)) int local(__u32 i) { return hits + i; }
    SEC("xdp.frags") int before(struct xdp_md *ctx) { return ctx->data == 0; }
    SEC("xdp.frags") int run(struct xdp_md *ctx)
    {
        __u32 sum = 0;
        bpf_loop(5, step, &sum, 0);     /* 10 */
        bpf_printk("%d", length(sum));
        hits = local(sum);
        return ctx->rx_queue_index == 0 ? (int)local(sum) : -1;   /* 20 */
    }
    """
    object_ = compiled(HEAD + source.replace("const char *const words[] = {", "const char words[][4] = {"))
    with loaded(chain((object_, "run", "x"))) as obj:
        assert set(obj.programs) == {"chain"}
        assert run(obj) == 20


def test_co_re_relocations_follow_the_code() -> None:
    # The kernel's xdp_frame is matched by name; a flavour with one member at a wrong offset shows it.
    source = """
    struct net_device { int wrong[100]; int ifindex; } __attribute__((preserve_access_index));
    SEC("xdp") int run(struct xdp_md *ctx)
    {
        (void)ctx;
        return bpf_core_field_exists(((struct net_device *)0)->ifindex)
               && bpf_core_field_offset(struct net_device, ifindex) != 400 ? 7 : 8;
    }
    """
    pad = (
        "static __attribute__((noinline)) int pad(int x) { return x * 3; }\n"
        "int p = 2; __attribute__((noinline)) int use(int x) { return pad(x) + p; }\n"
    )
    with loaded(chain((compiled(HEAD + pad + source), "run", "x"))) as obj:
        assert run(obj) == 7


def test_verifier_log_names_the_line_of_the_stages_source() -> None:
    source = (
        'SEC("xdp") int run(struct xdp_md *ctx)\n{\n\treturn *(int *)(long)ctx->data; /* unchecked */\n}\n'
    )
    bad = compiled(HEAD + source)
    with pytest.raises(LoadError) as failure, loaded(chain((counting(1, -1), "run", "a"), (bad, "run", "b"))):
        pass
    assert ";  @ <stdin>:8\n" in failure.value.log  # the line of the access


def test_entry_prototypes_that_differ_from_the_dispatchers_are_made_equal() -> None:
    source = 'SEC("xdp") enum xdp_action run(struct xdp_md *c) { return c->data ? XDP_TX : XDP_DROP; }'
    with loaded(chain((compiled(HEAD + source), "run", "x"))) as obj:
        assert run(obj) == 3


@pytest.mark.parametrize("section", ["xdp", "xdp.frags", "xdp/name"])
def test_any_section_holds_an_entry(section: str) -> None:
    with loaded(chain((counting(1, 3, section), "run", "a"))) as obj:
        assert run(obj) == 3


def test_a_stage_twice_in_one_chain_with_two_prefixes() -> None:
    one = counting(1, -1)
    with loaded(chain((one, "run", "a"), (one, "run", "b"))) as obj:
        assert run(obj) == 2  # nobody decides: XDP_PASS
        assert number(obj, "b_counts") == 1


def test_stages_carry_no_debug_sections_and_no_foreign_programs() -> None:
    stage = parse_elf(as_stage(counting(1, 1), "run", "a"))
    assert [s.name for s in stage.sections] == [
        ".text", ".data.a", ".rodata.a", ".maps", ".bss.a", ".BTF", ".BTF.ext"
    ]  # fmt: skip


def test_refused_objects() -> None:
    plain = 'SEC("xdp") int run(struct xdp_md *ctx) { return ctx->data == 0; }\n'
    closed = HEAD.replace('"GPL"', '"Proprietary"') + plain
    with pytest.raises(StageError, match="Proprietary"):
        as_stage(compiled(closed), "run", "a")
    with pytest.raises(ElfError, match="no function walk") as missing:
        as_stage(counting(1, 1), "walk", "a")
    assert missing.value.reason == "FunctionNotFound"
    assert "run (xdp)" in missing.value.hint
    with pytest.raises(StageError, match="no BTF"):
        as_stage(compiled(HEAD + plain, "-g0"), "run", "a")
    with pytest.raises(StageError, match="prefix"):
        as_stage(counting(1, 1), "run", "a-b")


def test_the_linker_says_which_symbol_is_missing() -> None:
    with pytest.raises(LinkError, match="no object defines a_run"):
        link([dispatcher("a_run")])


def test_the_linker_says_what_is_defined_twice() -> None:
    stage = as_stage(counting(1, 1), "run", "a")
    with pytest.raises(LinkError, match="a_") as failure:
        link([dispatcher("a_run"), stage, stage])
    assert "/proc" not in failure.value.message

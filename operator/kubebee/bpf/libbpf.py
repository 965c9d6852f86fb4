"""libbpf.so.1 by ctypes: prototypes, and its messages as text."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p

from kubebee.bpf.syscall import raise_memlock_limit
from kubebee.errors import UnsupportedError

_LIBBPF_DEBUG = 2
_VA_LIST_BYTES = 32  # aarch64; x86-64's is 24
_MIN_VERSION = (1, 2)  # of libbpf: the first without surprises in linking and log handling

_PRINT_FN = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class OpenOpts(ctypes.Structure):
    """struct bpf_object_open_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("_removed", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_char_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
    )


# name -> (result, arguments); pointers to libbpf's own structures are c_void_p
_PROTOTYPES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "libbpf_major_version": (c_uint32, ()),
    "libbpf_minor_version": (c_uint32, ()),
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, POINTER(OpenOpts))),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__is_internal": (c_bool, (c_void_p,)),
    "bpf_map__type": (c_uint32, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__map_flags": (c_uint32, (c_void_p,)),
    "bpf_map__btf_key_type_id": (c_uint32, (c_void_p,)),
    "bpf_map__btf_value_type_id": (c_uint32, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__set_pin_path": (c_int, (c_void_p, c_char_p)),
    "bpf_map__set_autocreate": (c_int, (c_void_p, c_bool)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map__set_initial_value": (c_int, (c_void_p, c_char_p, c_size_t)),
    "bpf_map__attach_struct_ops": (c_void_p, (c_void_p,)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__type": (c_uint32, (c_void_p,)),
    "bpf_program__expected_attach_type": (c_uint32, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__set_type": (c_int, (c_void_p, c_uint32)),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_uint32)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__set_attach_target": (c_int, (c_void_p, c_int, c_char_p)),
    "bpf_program__set_flags": (c_int, (c_void_p, c_uint32)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_link__disconnect": (None, (c_void_p,)),
    "bpf_linker__new": (c_void_p, (c_char_p, c_void_p)),
    "bpf_linker__add_file": (c_int, (c_void_p, c_char_p, c_void_p)),
    "bpf_linker__finalize": (c_int, (c_void_p,)),
    "bpf_linker__free": (None, (c_void_p,)),
}


class _Capture(threading.local):
    """Messages of libbpf in this thread; libbpf calls back in the thread that called it."""

    messages: list[str] | None = None


_capture = _Capture()
_libc = ctypes.CDLL(None)
_libc.vsnprintf.argtypes = (c_void_p, c_size_t, c_char_p, c_void_p)


def _collect(level: int, template: bytes, arguments: int) -> int:
    if level >= _LIBBPF_DEBUG or _capture.messages is None:
        return 0
    # vsnprintf uses its va_list up, so the measuring call gets a copy (both ABIs pass it by address).
    copy = ctypes.create_string_buffer(ctypes.string_at(arguments, _VA_LIST_BYTES), _VA_LIST_BYTES)
    length = _libc.vsnprintf(None, 0, template, ctypes.addressof(copy))
    if length > 0:
        text = ctypes.create_string_buffer(length + 1)
        _libc.vsnprintf(text, length + 1, template, arguments)
        _capture.messages.append(text.value.decode(errors="replace"))
    return 0


_print = _PRINT_FN(_collect)  # module-level: libbpf keeps the pointer


@contextmanager
def captured_messages() -> Iterator[list[str]]:
    """Collect libbpf's warnings and notices of this thread; nothing reaches stderr."""
    previous, _capture.messages = _capture.messages, []
    try:
        yield _capture.messages
    finally:
        _capture.messages = previous


@functools.cache
def library() -> ctypes.CDLL:
    """Return libbpf with its prototypes set.

    Raises:
        UnsupportedError: libbpf is not installed, or too old.
    """
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise UnsupportedError(f"libbpf is missing: {error}", hint="install package libbpf1") from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(lib, name, None)
        if function is None:
            raise UnsupportedError(f"libbpf is too old: no {name}", hint="install libbpf 1.2 or newer")
        function.restype = result
        function.argtypes = arguments
    version = (lib.libbpf_major_version(), lib.libbpf_minor_version())
    if version < _MIN_VERSION:
        raise UnsupportedError(
            f"libbpf {version[0]}.{version[1]} is too old", hint="install libbpf 1.2 or newer"
        )
    lib.libbpf_set_print(_print)
    raise_memlock_limit()
    return lib

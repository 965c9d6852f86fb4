"""Debian's kernels under qemu: the tests of this tree on kernels that this machine does not run."""

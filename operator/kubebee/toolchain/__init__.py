"""From source to ELF object: one module per toolchain, run in a sandbox."""

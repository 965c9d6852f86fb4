"""The kernel's bpf(2) interface, libbpf, BTF and ELF; knows nothing of Kubernetes."""

"""The node agent: makes the kernel match a plan and reports what it did."""

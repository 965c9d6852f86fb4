"""`kubebee lb`: what the load balancer of this node does, read from the kernel."""

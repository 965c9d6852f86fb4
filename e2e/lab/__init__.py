"""A small network in namespaces to run kubebee in: client, node, two backends, all removed at exit."""

"""The kubebee command."""

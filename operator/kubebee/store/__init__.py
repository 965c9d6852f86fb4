"""Where resources come from and where statuses go."""

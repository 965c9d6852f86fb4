"""Active checks of backends: what is tried, how often, and what the results come to."""

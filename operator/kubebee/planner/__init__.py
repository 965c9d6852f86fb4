"""Pure functions from resources to what a node shall run, and from node reports to statuses."""

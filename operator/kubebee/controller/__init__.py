"""The controller: effects around the cluster's planner. Watches, writes, leader election, health."""

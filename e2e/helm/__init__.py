"""Helm 3 and 4 as tools of their own Go modules, and what is made of the chart with them."""

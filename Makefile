# Everything starts from a fresh Debian machine as root: `make run` or `make test` installs what is missing.
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup run test unit fuzz test-kernels lint crds manifests bench cluster cluster-down conformance e2e e2e-full
NODES := 2
CLUSTER := PYTHONPATH=e2e $(PYTHON) -m cluster

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' Makefile | expand -t 15

setup:  ## install what is missing: Debian packages, .venv
	@tools/setup

run: setup  ## kubebee in a lab of network namespaces: real traffic, live view
	@PYTHONPATH=e2e $(PYTHON) -m lab.quickstart

test: setup lint  ## lint, then every test but those of e2e-full
	@$(PYTHON) -m pytest -m "not full"

unit: setup  ## unit and datapath tests alone, in as many processes as there are CPUs: under two minutes
	@$(PYTHON) -m pytest -n auto --dist loadfile tests/unit tests/datapath

fuzz: setup  ## 100,000 random frames at each hook, of either family, against a model
	@$(PYTHON) -m pytest tests/datapath/test_fuzz_lb.py tests/datapath/test_fuzz_policy.py

e2e: setup  ## the tests on a real Kubernetes cluster alone
	@$(PYTHON) -m pytest -m "not full" tests/cluster tests/conformance

e2e-full: setup  ## the same, with those that take minutes each
	@$(PYTHON) -m pytest tests/cluster tests/conformance

conformance: setup  ## the conformance specs of Services, of Kubernetes' own tests
	@$(PYTHON) -m pytest -m "not full" tests/conformance

cluster: setup  ## a real Kubernetes cluster of NODES=2 nodes on this machine; the first time takes minutes
	@$(CLUSTER) up --nodes $(NODES)

cluster-down:  ## leave nothing of the cluster but what it was built of
	@$(CLUSTER) down

test-kernels: setup  ## some tests on Debian's 5.10, 6.1 and 6.12 under qemu: minutes each
	@PYTHONPATH=e2e $(PYTHON) -m kernels

lint: setup  ## ruff, mypy, import contracts, drift of crds/
	@ruff check operator templates tests e2e benchmarks
	@ruff format --check operator templates tests e2e benchmarks
	@mypy
	@lint-imports
	@$(PYTHON) -m kubebee.cli.main crds --check

crds: setup  ## generate crds/ and docs/reference.md from the models
	@$(PYTHON) -m kubebee.cli.main crds

manifests: setup  ## generate manifests/, and the chart's CRDs and README
	@PYTHONPATH=e2e $(PYTHON) -m helm manifests

bench: setup  ## every benchmark, as JSON lines
	@for each in benchmarks/*.py; do $(PYTHON) $$each || exit 1; done

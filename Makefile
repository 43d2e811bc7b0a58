# `make` alone lists what there is.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
TERRAFORM := $(shell command -v terraform || command -v tofu)
CHECKOV := build/checkov/bin/checkov

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## make .venv with the pinned requirements
	@scripts/setup venv

.PHONY: demo
demo: ## ten jobs from webhook to right-sized containers, on this machine (KEEP=1 leaves it running, ADVERSARIAL=1 swaps all)
	@scripts/setup venv system
	@$(PYTHON) -m local.demo $(if $(KEEP),--keep) $(if $(ADVERSARIAL),--adversarial)

.PHONY: test
test: ## everything: unit, contract, integration and end-to-end tests
	@scripts/setup venv system
	$(PYTEST) tests/unit tests/contract tests/integration tests/histories tests/e2e $(if $(TERRAFORM),tests/terraform)
	@$(if $(TERRAFORM),:,echo "tests/terraform did not run: it needs terraform or tofu 1.9 or newer")

.PHONY: test-unit
test-unit: setup ## only the tests without I/O: seconds
	$(PYTEST) tests/unit

.PHONY: test-emulator
test-emulator: ## only what needs the Firestore emulator
	@scripts/setup venv system
	$(PYTEST) tests/contract

.PHONY: bench
bench: ## measure: all of benchmarks/, or one with NAME=routing; exit code 1 when a target is missed
	@scripts/setup venv system
	@$(PYTHON) -m benchmarks $(NAME)

.PHONY: test-terraform
test-terraform: setup ## only what needs Terraform: the configuration, planned and applied against a provider that pretends
	$(PYTEST) tests/terraform

.PHONY: scan
scan: ## the Terraform configuration with checkov, in an environment of its own (300 MB)
	@[ -x $(CHECKOV) ] || { python3 -m venv build/checkov && build/checkov/bin/python -m pip install --quiet checkov==3.3.30; }
	$(CHECKOV) --directory terraform --framework terraform --compact --quiet --skip-download

.PHONY: lint
lint: setup ## format, lint, types, import contracts; changes nothing
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	for script in controller/inside/*.sh scripts/setup scripts/compile-requirements .ci/run local/demo/job.sh .github/test-case-10/*.sh; do sh -n $$script || exit 1; done
	.venv/bin/actionlint -shellcheck= -pyflakes=
	$(if $(TERRAFORM),$(TERRAFORM) fmt -check -recursive terraform)

.PHONY: format
format: setup ## format and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.PHONY: archive
archive: ## the functions as Terraform uploads them, named by their hash; prints the path
	@scripts/setup venv >&2
	@$(PYTHON) -m local.archive dist

.PHONY: requirements
requirements: setup ## compile the requirements files from pyproject.toml
	scripts/compile-requirements

.PHONY: run-function
run-function: setup ## the webhook function on port 8080, with your environment
	FUNCTION_USE_ASGI=true .venv/bin/functions-framework --source functions/main.py --target github_webhook

.PHONY: run-controller
run-controller: setup ## this host's controller, with the configuration CONFIG=FILE
	.venv/bin/runyard run --config $(or $(CONFIG),/etc/runyard/config.yaml)

.PHONY: clean
clean: ## remove what the targets above have made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info demo-report.md
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make help` lists what there is.  Everything happens inside .venv, which is made when it is
# missing; the stamps in it make a second run go straight to the work.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -qq
SETTINGS := setup.cfg pyproject.toml txtlsmc/_version.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint types docs coverage test-reactors bench wheel changes clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## Run `tlsmc demo`: server, client and the three refusals, in seconds
	@$(BIN)/tlsmc demo

test: $(VENV)/.installed-test ## Run the whole suite; as root on Debian, install memcached for it
	@tools/system-packages
	@$(BIN)/python -m tests.run

lint: $(VENV)/.installed-dev ## Check the style and the layout of the code, with ruff
	@status=0; $(BIN)/ruff check . || status=1; $(BIN)/ruff format --check . || status=1; exit $$status

types: $(VENV)/.installed-test $(VENV)/.installed-dev ## Check the types, with mypy --strict
	@$(BIN)/mypy --strict

docs: $(VENV)/.installed-docs ## Build the documentation; a warning is an error
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "built docs/_build/html/index.html"

coverage: $(VENV)/.installed-test $(VENV)/.installed-dev ## Fail when wire/ and net/ are covered by less than 95 %
	@tools/system-packages
	@$(BIN)/coverage run -m tests.run tests.wire tests.net
	@$(BIN)/coverage report --include='txtlsmc/wire/*,txtlsmc/net/*' --fail-under=95

# What the reactor has a part in: sockets, TLS, processes.  The rest is the same on all of them.
REACTOR_TESTS := tests.net.test_direct tests.net.test_endpoints tests.net.test_endpoints_tls \
    tests.net.test_secure tests.net.test_tls_layer tests.net.test_pipeline tests.testing \
    tests.cli tests.tunnel.test_listeners tests.tunnel.test_relay_sockets \
    tests.tunnel.test_service tests.integration.test_connect tests.integration.test_operations \
    tests.integration.test_tunnel_limits

test-reactors: $(VENV)/.installed-test ## Run what meets the network on the select and asyncio reactors
	@tools/system-packages
	@status=0; for reactor in select asyncio; do echo "The $$reactor reactor:"; \
	    $(BIN)/python -m tests.run --reactor=$$reactor $(REACTOR_TESTS) || status=1; done; exit $$status

bench: $(VENV)/.installed-test $(VENV)/.installed-bench ## Measure beside pylibmc behind stunnel, emcache and others, as ratios
	@tools/system-packages
	@command -v stunnel4 >/dev/null || command -v stunnel >/dev/null || \
	    echo "stunnel is missing: its rows are left out (apt-get install stunnel4)"
	@$(BIN)/python -m tests.bench

wheel: $(VENV)/.made ## Build a wheel and try it in an empty environment
	@tools/try-wheel $(BIN)/python

changes: $(VENV)/.installed-dev ## Show what the next release's changes will say
	@$(BIN)/towncrier build --draft --version "$$($(BIN)/python -c 'from txtlsmc._version import __version__; print(__version__)')"

clean: ## Remove all that make has made, .venv too
	rm -rf $(VENV) build docs/_build htmlcov .coverage .hypothesis .mypy_cache .ruff_cache *.egg-info
	find txtlsmc tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@tools/make-venv $(VENV)
	@touch $@

$(VENV)/.installed: $(SETTINGS) | $(VENV)/.made
	@echo "Installing txtlsmc into $(VENV)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-%: $(SETTINGS) | $(VENV)/.made
	@echo "Installing txtlsmc[$*] into $(VENV)"
	@$(PIP_INSTALL) -e '.[$*]'
	@touch $@

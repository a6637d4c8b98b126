# make run          the main job: the paper's Figure 1, at a resolution that takes seconds
# make run OPEN=1   … and open it in a browser
# make run STUDY=studies/servers.toml
# make test         all tests; those of real models and of Ray only where these are installed:
# make extras       installs torch, transformers and ray
# make lint         linter and types      make docs   help in the documents      make bench   benchmarks
# make site         the documentation as a site: site/index.html, for any browser, without a network
PYTHON ?= python3
VENV ?= .venv
STUDY ?= studies/heatmap.toml
BIN = $(VENV)/bin
# What was skipped is printed once, after both runs.
# Reasons of skipped tests, gathered from both runs (tests/conftest.py). Not an option of pytest: one
# that names a file that exists is taken for a test to run.
export PYTEST_SKIPS_TO = .pytest-skipped
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test extras lint docs site bench clean

run: $(VENV)/.installed
	$(BIN)/dsim run $(STUDY) $(if $(OPEN),--open)

test: $(VENV)/.installed-dev
	@rm -f $(PYTEST_SKIPS_TO)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not wallclock" -rfE
	$(BIN)/python -m pytest -n 0 -m wallclock -rfE
	@if [ -s $(PYTEST_SKIPS_TO) ]; then echo "Skipped, and why:"; sort -u $(PYTEST_SKIPS_TO); fi; \
		rm -f $(PYTEST_SKIPS_TO)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/cog -r README.md docs/index.md docs/tutorial-drafter.md docs/tutorial-deployment.md docs/tutorial-orchestration.md docs/settings.md docs/api.md docs/gallery.md docs/orchestrations.md docs/other-names.md docs/commands.md docs/results.md docs/reliability.md docs/house.md docs/gpus-and-models.md docs/presets.md

site: $(VENV)/.installed-site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

bench: $(VENV)/.installed
	for name in grid events start cluster; do $(BIN)/python benchmarks/$$name.py; done

extras: $(VENV)/.installed-extras

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dsim needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing dsim and what it needs into $(VENV) (a minute or so) …"
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing dsim and what it needs into $(VENV) (a minute or so) …"
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-site: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[site]'
	touch $@

$(VENV)/.installed-extras: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing dsim and what it needs into $(VENV) (a minute or so) …"
	$(INSTALL) -e '.[dev,site,torch,ray,datasets]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-dev

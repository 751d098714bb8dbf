# Everything runs in the virtual environment .venv. It is made on first use, with the exact versions of
# requirements/lock.txt, and made afresh whenever that file or pyproject.toml changes.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv

lock := requirements/lock.txt
bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check
locked := $(pip) --constraint $(lock)
docstrings := runs/docstrings

.PHONY: install style quality types docs docs-links test test-slow test-search test-newest test-lowest lock package release app demo demo-image demo-train clean

$(VENV)/.installed: pyproject.toml $(lock) .ci/install_torch.sh
	$(PYTHON) -m venv --clear $(VENV)
	.ci/install_torch.sh $(bin)/python
	$(locked) hatchling editables
	$(locked) --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(locked) --no-build-isolation --editable ".[$*]"
	touch $@

install: $(VENV)/.installed-dev  ## everything a contributor needs

style: $(VENV)/.installed-dev  ## rewrite the code in the project's style
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

quality: $(VENV)/.installed-dev  ## check the style, change nothing
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/lint-imports
	$(bin)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(bin)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[bf]*.yml
	$(bin)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(bin)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

types: $(VENV)/.installed-dev
	$(bin)/mypy

docs: $(VENV)/.installed-dev $(VENV)/.installed-docs  ## the documentation as a site in docs/_build/html
	$(bin)/python -m sphinx -W --keep-going -q docs docs/_build/html

docs-links: $(VENV)/.installed-dev $(VENV)/.installed-docs  ## every link of the documentation, followed
	$(bin)/python -m sphinx -W --keep-going -q -b linkcheck docs docs/_build/links

test: quality types  ## style, types and the fast tests
	$(bin)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.installed-dev
	$(bin)/python -m pytest -m "slow and not gpu and not network"

test-search: $(VENV)/.installed-dev  ## the property tests with a thousand new examples each
	$(bin)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile search

# Both ends of every range, each in an environment of its own, whose name says when it was made.
test-newest: $(VENV)/.installed-dev  ## the fast tests with the newest release of everything that the ranges admit
	.ci/install_ends.sh $(PYTHON) newest .venv-newest $(bin)/uv
	.venv-newest/bin/python -m pytest --versions newest

test-lowest: $(VENV)/.installed-dev  ## the fast tests with the lowest direct versions
	.ci/install_ends.sh $(PYTHON) lowest .venv-lowest $(bin)/uv
	.venv-lowest/bin/python -m pytest --versions lowest

lock: $(VENV)/.installed-dev  ## renew requirements/lock.txt within the ranges of pyproject.toml
	UV_PYTHON_DOWNLOADS=never $(bin)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --upgrade \
		--constraint requirements/pins.txt --custom-compile-command "make lock" pyproject.toml --output-file $(lock)

app: $(VENV)/.installed-app  ## a page in the browser that tries the checkpoint in model_cards/eddpm-sentences
	$(bin)/hf-eddpm app model_cards/eddpm-sentences

package: $(VENV)/.installed-dev $(VENV)/.installed-release  ## wheel and sdist in dist/, tried in a fresh environment
	.ci/package.sh $(PYTHON) $(bin)/python

release: $(VENV)/.installed-dev  ## check that CHANGELOG.md describes the version, then package it; uploads nothing
	$(bin)/python .ci/check_changelog.py
	$(MAKE) package

demo: $(VENV)/.installed  ## a tour of the checkpoint in model_cards/eddpm-sentences
	$(bin)/python docs/examples/demo_text.py

demo-image: $(VENV)/.installed-train  ## a tour of model_cards/eddpm-digits, whose pictures go to runs/demo_image
	$(bin)/python docs/examples/demo_image.py

demo-train: $(VENV)/.installed-train  ## train a tiny model on this machine's docstrings, then take the same tour
	$(bin)/python docs/examples/docstring_corpus.py $(docstrings)/sentences.txt
	$(bin)/python training/train.py text training/configs/text_docstrings_tiny.json \
		--train $(docstrings)/sentences.txt --output_dir $(docstrings)
	$(bin)/python docs/examples/demo_text.py --checkpoint $(docstrings)/pipeline --tour docstrings

clean:  ## the environments and every cache; trained models in runs/ stay
	rm -rf $(VENV) .venv-newest .venv-lowest build dist .mypy_cache .import_linter_cache .pytest_cache .ruff_cache .hypothesis
	find src tests training docs -name __pycache__ -type d -prune -exec rm -rf {} +

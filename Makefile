# Everything runs in the virtual environment .venv, made on first use and made afresh whenever pyproject.toml changes.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check
docstrings := runs/docstrings

.PHONY: install style quality types test test-slow demo demo-image demo-train clean

$(VENV)/.installed: pyproject.toml .ci/install_torch.sh
	$(PYTHON) -m venv --clear $(VENV)
	.ci/install_torch.sh $(bin)/python
	$(pip) --editable .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(pip) --editable ".[$*]"
	touch $@

install: $(VENV)/.installed-dev  ## everything a contributor needs

style: $(VENV)/.installed-dev  ## rewrite the code in the project's style
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

quality: $(VENV)/.installed-dev  ## check the style, change nothing
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(VENV)/.installed-dev
	$(bin)/mypy

test: quality types  ## style, types and the fast tests
	$(bin)/python -m pytest

test-slow: $(VENV)/.installed-dev
	$(bin)/python -m pytest -m "slow and not gpu and not network"

demo: $(VENV)/.installed  ## a tour of the checkpoint in model_cards/eddpm-yelp-mini
	$(bin)/python training/demo_text.py

demo-image: $(VENV)/.installed-train  ## a tour of model_cards/eddpm-digits, whose pictures go to runs/demo_image
	$(bin)/python training/demo_image.py

demo-train: $(VENV)/.installed-train  ## train a tiny model on this machine's docstrings, then take the same tour
	$(bin)/python training/docstring_corpus.py $(docstrings)/sentences.txt
	$(bin)/python training/train_text.py training/configs/text_docstrings_tiny.json \
		--train $(docstrings)/sentences.txt --output_dir $(docstrings)
	$(bin)/python training/demo_text.py --checkpoint $(docstrings)/pipeline --tour docstrings

clean:  ## the environment and every cache; trained models in runs/ stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests training -name __pycache__ -type d -prune -exec rm -rf {} +

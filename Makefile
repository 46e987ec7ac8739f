# make book: set everything up and build the book.  make test: set everything up and run every test.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest -q
READY := $(VENV)/.setup-done
BOOK := _build/html/index.html
export OMP_NUM_THREADS := 1

.PHONY: help setup book serve test lint library nbval strict-book browser notebooks rehearse student figures repository clean

help:
	@echo "make book        set everything up and build the book into _build/html"
	@echo "make serve       build the book and open it on http://localhost:8000"
	@echo "make test        set everything up and run every test"
	@echo "make notebooks   run all chapters and write their outputs (CHAPTERS=notebooks/03-* for some)"
	@echo "make rehearse    run all chapters as Colab would, in a fresh environment (CHAPTERS= as above)"
	@echo "make student     write the chapters without their solutions into student/"
	@echo "make figures     run the chapters and write their figures for slides into figures/ (PNG and SVG)"
	@echo "make repository ADDRESS=https://github.com/OWNER/NAME   set the address wherever it stands"

$(READY): pyproject.toml
	@echo "== setting up $(VENV): torch and the tools of the book, several minutes the first time"
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[book,test]'
	@touch $@

setup: $(READY)

book: setup
	@echo "== building the book"
	rm -rf _build
	$(VENV)/bin/jupyter-book build . --quiet
	@echo "== done: run 'make serve', or serve the folder _build/html (pages do not run from file://)"

serve: book
	$(PYTHON) tools/serve.py

test: lint library nbval strict-book browser
	@echo "== every test has run"

lint: setup
	@echo "== ruff and mypy"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

library: setup
	@echo "== the library's tests, and its wheel"
	$(PYTEST) -n 2 tests csos_lib --doctest-modules -m "not browser"

nbval: setup
	@echo "== the notebooks under nbval"
	$(PYTEST) -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 120 notebooks

strict-book: setup
	@echo "== the book, warnings as errors, from a clean folder"
	rm -rf _build
	$(VENV)/bin/jupyter-book build . --quiet -W -n --keep-going

browser: strict-book
	@echo "== the built pages in a browser"
	$(PYTEST) -n 2 tests/test_browser*.py -m browser

notebooks: setup
	$(PYTHON) tools/run_notebooks.py $(CHAPTERS)

rehearse:
	$(firstword $(wildcard $(PYTHON)) python3) tools/rehearse.py $(CHAPTERS)

student: setup
	$(PYTHON) tools/student_copies.py

figures: setup
	$(PYTHON) tools/figures.py $(CHAPTERS)

repository: setup
	$(PYTHON) tools/set_repository.py $(ADDRESS)

clean:
	rm -rf _build student .pytest_cache .mypy_cache .ruff_cache .hypothesis

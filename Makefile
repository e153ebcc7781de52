# `make help` lists the targets. Two environments: .venv (stock mmseg) and .venv-onedl (its fork).
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
ONEDL := .venv-onedl
BIN := $(VENV)/bin
PYTEST := python -m pytest -n $(JOBS)
C_FILES = $(shell git ls-files '*.c' '*.h' 2>/dev/null)
INSTALL_INPUTS := setup.py pyproject.toml constraints.txt bfcn_mm_compat.pth
RELEASE_CHECK = import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 12) \
  else 'bfcn_mm needs Python 3.10 to 3.12, this is %d.%d: make PYTHON=python3.11' % v)

.PHONY: help demo test test-onedl arm arm-pack lint doctor clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/installed  ## install, train float -> 1-2 bit on built-in scenes, table and pictures
	$(BIN)/python tools/demo.py

test: $(VENV)/installed  ## install and run the whole test suite
	$(BIN)/$(PYTEST)

test-onedl: $(ONEDL)/installed  ## the suite on the maintained fork of mmseg
	$(ONEDL)/bin/$(PYTEST)

arm: $(VENV)/installed  ## build for ARMv7 and AArch64, test under qemu, compare with this machine
	$(BIN)/python tools/arm_check.py

arm-pack: $(VENV)/installed  ## MODEL=x.gguf: static binaries, the model and a script for a board
	$(BIN)/python tools/arm_pack.py $(or $(MODEL),$(error say which model: make arm-pack MODEL=x.gguf))

lint: $(VENV)/installed  ## ruff and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(C_FILES),$(BIN)/clang-format --dry-run -Werror $(C_FILES))

doctor: $(VENV)/installed  ## what is installed, what is broken, how to fix it
	$(BIN)/python tools/doctor.py

clean:  ## remove both environments and everything that was built
	rm -rf $(VENV) $(ONEDL) build dist *.egg-info demo_out .pytest_cache .ruff_cache

$(VENV)/installed: EXTRAS := mmseg,dev
$(ONEDL)/installed: EXTRAS := onedl,dev
%/installed: $(INSTALL_INPUTS)
	@$(PYTHON) -c "$(RELEASE_CHECK)"
	@echo "Installing torch and bfcn_mm[$(EXTRAS)] into $* (once, a few minutes) ..."
	@test -x $*/bin/python || $(PYTHON) -m venv $*
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $*/bin/python -m pip install -q -c constraints.txt \
	  torch==2.13.0 -e '.[$(EXTRAS)]' \
	  || { echo "Install failed. Pip's reason stands above; 'make clean' starts afresh." >&2; exit 1; }
	@touch $@

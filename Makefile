# `make help` lists the targets. Two environments: .venv (stock mmseg) and .venv-onedl (its fork).
PYTHON ?= python3
JOBS ?= 2
BENCH_THREADS ?= $(shell test `nproc` -ge 2 && echo 1 2 || echo 1)
VENV := .venv
ONEDL := .venv-onedl
BIN := $(VENV)/bin
PYTEST := python -m pytest -n $(JOBS) --dist worksteal
C_FILES = $(shell git ls-files '*.c' '*.cpp' '*.h' '*.cu' 2>/dev/null)
BENCH = $(BIN)/python tools/benchmark.py cpu configs/bfcn_r50_cityscapes_1w2a.py \
  --bits 1-1 1-2 2-2 4-4 --csv results/cpu.csv
INSTALL_INPUTS := setup.py pyproject.toml constraints.txt bfcn_mm_compat.pth
RELEASE_CHECK = import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 12) \
  else 'bfcn_mm needs Python 3.10 to 3.12, this is %d.%d: make PYTHON=python3.11' % v)

# Debian's cross compilers exclude its gcc-multilib, which would bring a link to these headers.
M32 := -m32 -msse2 -mfpmath=sse -idirafter /usr/include/$(shell $(CC) -print-multiarch 2>/dev/null)
NO_M32 = C tests, m32: LEFT OUT, $(CC) builds nothing for 32 bits here. Debian: \
  apt-get install libc6-dev-i386 lib32gcc-$(shell $(CC) -dumpversion)-dev
builds = printf '\#include <errno.h>\nint main(void) { return 0; }' | $(CC) $(1) -x c - -o build/built 2>/dev/null

CLANG ?= clang
FUZZ_RUNS ?= 10000000
FUZZ_SECONDS ?= 7200
FUZZ = -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -print_final_stats=1 \
  -dict=$(CURDIR)/kernels/tests/fuzz.dict

.PHONY: help demo test test-c test-onedl arm arm-pack lint doctor bench fuzz gpu gpu-compile clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/installed  ## install, train float -> 1-2 bit on built-in scenes, pack, run in C, table and pictures
	$(BIN)/python tools/demo.py

test: test-c  ## install and run the whole test suite
	$(BIN)/$(PYTEST)

test-c: $(VENV)/with-dev  ## the C tests, plain and under sanitizers, for 64 and for 32 bits
	@set -e; mkdir -p build; for kind in plain address,undefined thread m32; do \
	  flags=; sanitize=$${kind#plain}; only=.; \
	  if [ $$kind = thread ]; then only='^threads$$'; fi; \
	  if [ $$kind = m32 ]; then \
	    flags="$(M32)"; sanitize=address,undefined; \
	    $(call builds,$$flags -fsanitize=$$sanitize) || { echo "$(NO_M32)" >&2; continue; }; \
	  fi; \
	  echo "C tests, $$kind"; \
	  $(BIN)/cmake -S kernels -B build/$$kind -DBFCN_SANITIZE=$$sanitize -DCMAKE_C_FLAGS="$$flags" >build/$$kind.log; \
	  $(BIN)/cmake --build build/$$kind -j $(JOBS) >>build/$$kind.log || { cat build/$$kind.log; exit 1; }; \
	  $(BIN)/ctest --test-dir build/$$kind --output-on-failure -R $$only; \
	done

test-onedl: $(ONEDL)/installed  ## what touches mmseg, on its maintained fork
	$(ONEDL)/bin/$(PYTEST) tests

fuzz: $(VENV)/with-dev  ## libFuzzer (needs clang) on reader and planner: FUZZ_RUNS times, FUZZ_SECONDS each at most
	CC=$(CLANG) $(BIN)/cmake -S kernels -B build/fuzz -DBFCN_TOOLS=OFF >/dev/null
	$(BIN)/cmake --build build/fuzz --target fuzz_parse fuzz_load fuzz_graph -j $(JOBS)
	$(BIN)/python kernels/tests/hostile.py build/fuzz/hostile
	mkdir -p build/fuzz/parse build/fuzz/load build/fuzz/graph
	cd build/fuzz && tests/fuzz_parse -runs=$(FUZZ_RUNS) $(FUZZ) -max_len=4096 parse hostile
	cd build/fuzz && tests/fuzz_graph -runs=$$(($(FUZZ_RUNS) / 100)) $(FUZZ) -max_len=1024 -len_control=0 graph
	cd build/fuzz && tests/fuzz_load -runs=$$(($(FUZZ_RUNS) / 100)) $(FUZZ) -max_len=8192 load hostile

arm: $(VENV)/with-dev  ## build for ARMv7 and AArch64, test under qemu, compare with this machine
	$(BIN)/python tools/arm_check.py --jobs $(JOBS)

arm-pack: $(VENV)/with-dev  ## MODEL=x.gguf: static binaries, the model and a script for a board
	$(BIN)/python tools/arm_pack.py $(or $(MODEL),$(error say which model: make arm-pack MODEL=x.gguf))

lint: $(VENV)/with-dev  ## ruff and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(C_FILES),$(BIN)/clang-format --dry-run -Werror $(C_FILES))

doctor: $(VENV)/installed  ## what is installed, what is broken, how to fix it
	$(BIN)/python tools/doctor.py

bench: $(VENV)/with-bench  ## install peers, measure on an idle machine (under an hour), write docs
	rm -f results/cpu.csv
	$(BIN)/python -m lab.kernels.rates --csv results/kernels.csv
	$(BENCH) --size 160 256 --size 360 480 --threads $(BENCH_THREADS) --isa all
	$(BENCH) --size 1024 2048 --peers onnxruntime openvino
	$(BIN)/python tools/performance.py

gpu: $(VENV)/with-dev  ## on an NVIDIA GPU: is the Triton engine right, and how fast (8 minutes)
	$(BIN)/python tools/gpu.py

gpu-compile: $(VENV)/with-dev  ## no GPU: run compiled Triton kernels on a machine in numpy, list their needs
	BFCN_FULL=1 $(BIN)/$(PYTEST) kernels/tests/test_triton_compiled.py kernels/tests/test_triton_plane_conv.py
	$(BIN)/python -m lab.gpu.resources docs/gpu_resources.csv

clean:  ## remove both environments and everything that was built
	rm -rf $(VENV) $(ONEDL) build dist *.egg-info demo_out gpu_out .pytest_cache .ruff_cache

$(VENV)/installed: EXTRAS := mmseg,demo
$(ONEDL)/installed: EXTRAS := onedl,dev
$(VENV)/with-%: $(VENV)/installed
	@echo "Installing what bfcn_mm[$*] adds to $(VENV) ..."
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q -c constraints.txt -e '.[$*]'
	@touch $@
%/installed: $(INSTALL_INPUTS)
	@$(PYTHON) -c "$(RELEASE_CHECK)"
	@echo "Installing torch and bfcn_mm[$(EXTRAS)] into $* (once, a few minutes) ..."
	@test -x $*/bin/python || $(PYTHON) -m venv $*
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $*/bin/python -m pip install -q -c constraints.txt \
	  torch==2.13.0 -e '.[$(EXTRAS)]' \
	  || { echo "Install failed. Pip's reason stands above; 'make clean' starts afresh." >&2; exit 1; }
	@touch $@

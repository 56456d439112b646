# Two commands are all the set-up there is: `make demo` and `make test`. Both make .venv when it is not there.
PYTHON ?= python3.11
BIN := .venv/bin
HOME_DIR ?= runs
DEMO := MOUSELIFT_HOME=$(HOME_DIR) $(BIN)/mouselift
SWEEP := demo-$(shell date +%Y%m%d-%H%M%S)
OUT := $(CURDIR)/out/$(SWEEP)
# With CPU=1, PyTorch without CUDA comes from here; no GPU is used then.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: setup demo test faults browser gpu gpu-folder lint bench clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing packages into .venv: about 8 GB$(if $(CPU), less CUDA), 2 to 10 minutes. Nothing is said until then."
	$(BIN)/python -m pip install --quiet --upgrade pip
ifdef CPU
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --index-url $(CPU_INDEX) torch torchvision || { \
		echo "make: CPU_INDEX: expected PyTorch for CPUs at $(CPU_INDEX), got none - name another, or leave CPU=1 out." >&2; \
		exit 2; }
endif
	PYTHONWARNINGS="ignore:Editable installation" \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,browser]"
	touch $@

demo: setup
	$(DEMO) data mice $(HOME_DIR)/mice --scenes 240
	$(DEMO) sweep run gslrm_tiny --data $(HOME_DIR)/mice --name $(SWEEP)
	$(DEMO) model promote $(SWEEP)
	$(DEMO) model pull mouse-gslrm@champion --out out/$(SWEEP)/model
	$(DEMO) reconstruct $(HOME_DIR)/mice/scene_000239 --model out/$(SWEEP)/model --out out/$(SWEEP)
	$(DEMO) sweep run mvdiffusion_tiny --data $(HOME_DIR)/mice --name $(SWEEP)-views
	$(DEMO) model promote $(SWEEP)-views
	$(DEMO) model pull mouse-mvdiffusion@champion --out out/$(SWEEP)/views-model
	$(DEMO) reconstruct $(HOME_DIR)/mice/scene_000239/images/cam_000.png --views out/$(SWEEP)/views-model \
		--gaussians out/$(SWEEP)/model --out out/$(SWEEP)/photo
	@echo "Open:"
	@printf '  %s\n' $(addprefix "$(OUT)/,$(addsuffix ",comparison.png view.html turntable.mp4 gaussians.ply))
	@echo "One photo, its six views, their Gaussians:"
	@printf '  %s\n' $(addprefix "$(OUT)/photo/,$(addsuffix ",views.png view.html turntable.mp4 gaussians.ply))
	@echo "Curves, trials, the registered models:"
	@echo "  MOUSELIFT_HOME='$(abspath $(HOME_DIR))' '$(abspath $(BIN))/mouselift' ui"

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not browser and not faults"

faults: setup
	MOUSELIFT_RELIABILITY=1 $(BIN)/python -m pytest tests/e2e/faults tests/e2e/test_processes.py

browser: setup
	$(BIN)/python -m pytest tests/browser

# Without .venv, a python3 that has PyTorch is taken as it is: a GPU machine may have no network to make one with.
gpu:
	@test -f .venv/.installed || python3 -c "import importlib.util as u, sys; sys.exit(not u.find_spec('torch'))" || $(MAKE) setup
	@if test -f .venv/.installed; then exec $(BIN)/python -m benchmarks.gpu; else exec python3 -m benchmarks.gpu; fi

gpu-folder: setup
	$(BIN)/python -m benchmarks.gpu --pack build/gpu $(if $(HAS),--has $(HAS))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache

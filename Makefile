# Two commands are all the set-up there is: `make demo` and `make test`. Both make .venv when it is not there.
PYTHON ?= python3.11
BIN := .venv/bin
HOME_DIR ?= runs
DEMO := MOUSELIFT_HOME=$(HOME_DIR) $(BIN)/mouselift
SWEEP := demo-$(shell date +%Y%m%d-%H%M%S)
DEMO_SCENES := 240
# 3 is the version of the mice: those of an older demo are not in the way.
DEMO_MICE := $(HOME_DIR)/calico-3
DEMO_SCENE := scene_000239
DEMO_MINUTES := 5
OUT := $(CURDIR)/out/$(SWEEP)
# With CPU=1, PyTorch without CUDA comes from here; no GPU is used then.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# What .venv takes, and what pip takes beside it while it installs, if that is on the same disk.
ROOM_GB ?= $(if $(filter 1,$(CPU)),4,11)

.PHONY: setup demo pictures test faults browser gpu gpu-folder lint bench clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -e $@ || df -Pk . | awk 'NR == 2 && $$4 < 1e6 * $(ROOM_GB) { \
		printf "make: .venv: expected $(ROOM_GB) GB free here, got %.1f - make room, or clone to another disk.\n", $$4 / 1e6; \
		exit 2 }' >&2
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing packages into .venv: about 8 GB$(if $(filter 1,$(CPU)), less CUDA), 2 to 10 minutes. Nothing is said until then."
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(CPU),1)
	@$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt --index-url $(CPU_INDEX) torch torchvision || { \
		echo "make: CPU_INDEX: expected PyTorch for CPUs at $(CPU_INDEX), got none - name another, or leave CPU=1 out." >&2; \
		exit 2; }
endif
	PYTHONWARNINGS="ignore:Editable installation" \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,browser]"
	touch $@

demo: setup
	@echo "The demo: six parts, about $(DEMO_MINUTES) minutes on two idle cores."
	@echo "1 of 6: a recording of mice of a strain that the bases have never seen"
	$(DEMO) data mice $(DEMO_MICE) --scenes $(DEMO_SCENES) --coat calico
	@echo "2 of 6: a sweep of fine-tunes of GS-LRM"
	$(DEMO) sweep run gslrm_small --data $(DEMO_MICE) --name $(SWEEP)
	@echo "3 of 6: its best is verified, registered, and pulled again"
	$(DEMO) model promote $(SWEEP)
	$(DEMO) model pull mouse-gslrm@champion --out out/$(SWEEP)/model
	$(DEMO) reconstruct $(DEMO_MICE)/$(DEMO_SCENE) --model out/$(SWEEP)/model --refine 50 --prune connected --out out/$(SWEEP)
	@echo "4 of 6: a sweep of fine-tunes of MVDiffusion"
	$(DEMO) sweep run mvdiffusion_small --data $(DEMO_MICE) --name $(SWEEP)-views
	@echo "5 of 6: its best is verified, registered, and pulled again"
	$(DEMO) model promote $(SWEEP)-views
	$(DEMO) model pull mouse-mvdiffusion@champion --out out/$(SWEEP)/views-model
	@echo "6 of 6: one photo, through both, and through GS-LRM alone"
	$(DEMO) reconstruct $(DEMO_MICE)/$(DEMO_SCENE)/images/cam_000.png --views out/$(SWEEP)/views-model \
		--gaussians out/$(SWEEP)/model --refine 50 --prune connected --out out/$(SWEEP)/photo
	if grep -q "min_input_views: 1" out/$(SWEEP)/model/recipe.yaml; then \
		$(DEMO) reconstruct $(DEMO_MICE)/$(DEMO_SCENE)/images/cam_000.png --views out/$(SWEEP)/views-model \
			--gaussians out/$(SWEEP)/model --given photo --prune connected --out out/$(SWEEP)/photo-alone; \
	else \
		echo "The champion of $(HOME_DIR) is of an older demo. For the photo alone: make demo HOME_DIR=another"; \
	fi
	@echo "Open:"
	@printf '  %s\n' $(addprefix "$(OUT)/,$(addsuffix ",comparison.png view.html turntable.mp4 gaussians.ply))
	@echo "One photo, and Gaussians of it alone:"
	@printf '  %s\n' $(addprefix "$(OUT)/photo-alone/,$(addsuffix ",view.html turntable.mp4 gaussians.ply))
	@echo "The same photo, its six views, their Gaussians:"
	@printf '  %s\n' $(addprefix "$(OUT)/photo/,$(addsuffix ",views.png view.html turntable.mp4 gaussians.ply))
	@echo "Curves, trials, the registered models:"
	@echo "  MOUSELIFT_HOME='$(abspath $(HOME_DIR))' '$(abspath $(BIN))/mouselift' ui"

# README's picture, of the newest demo.
pictures:
	cp "$$(ls -td out/demo-*/ | head -1)comparison.png" docs/demo.png

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

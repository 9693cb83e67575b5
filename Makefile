# Everything a fresh machine needs: `make demo` and `make test` make the environment first if it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests share the cores: a file stays in one process, which computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo published-capture test test-slow pytest lint types clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(READY)
	$(BIN)/physteer demo

# The published vortex concept: the model's own rollouts, then the activations of their last forward.
# WELL: folder of a local copy of The Well's data sets; CHECKPOINT: other weights, such as hf://DJ-Fear/walrus_steering.
published-capture: weights = $(if $(CHECKPOINT),--model.checkpoint $(CHECKPOINT))
published-capture: $(READY)
	$(BIN)/physteer predict --config configs/published/rollout_vortex.yaml $(weights) $(if $(WELL),--data.path $(WELL)/shear_flow)
	$(BIN)/physteer predict --config configs/published/capture_vortex_rollout.yaml $(weights)

test: lint
	$(MAKE) --jobs 2 types pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

pytest: $(READY)
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build *.egg-info

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Less chatter from TensorFlow's own libraries; its errors still come through.
export TF_CPP_MIN_LOG_LEVEL := 2

# A demo of another length: make demo DEMO_IMAGES=60 DEMO_OPTIONS="--classes-kimg=2"
DEMO_IMAGES ?= 300
DEMO_OPTIONS ?=
DEMO_METRICS ?= fid300,kid300

.PHONY: install test test-slow lint demo clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

# On every core up to four: a process holds up to 4 GB of graphs at its end.
test: install lint
	$(PY) -m pytest -m "not slow" -n logical --maxprocesses=4 --dist=worksteal

test-slow: install
	$(PY) -m pytest -m slow

lint: install
	$(VENV)/bin/ruff check .

demo: install
	$(PY) dataset_tool.py create_synthetic --num-images=$(DEMO_IMAGES) --resolution=32 --out=datasets/demo
	$(PY) train.py --preset=demo-32 --variant=2d --device=cpu --data=datasets/demo --results=results/demo \
	  --run=results/demo/00000-2d-demo $(DEMO_OPTIONS)
	$(PY) generate.py --network=results/demo/00000-2d-demo/network-final.safetensors --seeds=0-31 --out=results/demo/pictures
	$(PY) run_metrics.py --network=results/demo/00000-2d-demo/network-final.safetensors --metrics=$(DEMO_METRICS) --split=train --floor
	@echo "Look at results/demo/pictures (generated pairs) and results/demo/00000-2d-demo (grids, log, curves)."

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

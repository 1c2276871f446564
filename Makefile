PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install lint test verify demo clean

# The versions in constraints.txt are those that the whole suite passes on.
install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): PyTorch, transformers, coremltools and what the tests need, a minute or two"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers with one PyTorch thread each (tests/conftest.py): more threads than cores slow PyTorch down tenfold.
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Every measurement that the project promises, beside its limit. More than an hour; not a part of the tests.
verify: install
	$(BIN)/python scripts/verify.py $(ONLY)

# Trains a tiny sentiment model, exports it, scores the package beside the original, says what it will do on a device,
# halves its weights, and predicts. No download.
demo: install
	$(BIN)/python scripts/make_demo_checkpoint.py demo/checkpoint demo/dev.tsv
	$(BIN)/optimum-cli export ane --model demo/checkpoint --sequence-length 32 --eval-dataset demo/dev.tsv --overwrite demo/package
	$(BIN)/optimum-cli ane evaluate demo/package --dataset demo/dev.tsv
	$(BIN)/optimum-cli ane inspect demo/package --chip A15
	$(BIN)/optimum-cli ane compress demo/package int8 demo/package-int8 --dataset demo/dev.tsv --overwrite
	$(BIN)/python scripts/predict.py demo/package-int8 "her debut is never dull" "the cast was, to my surprise, a mess"

clean:
	rm -rf $(VENV) demo out build dist

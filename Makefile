# Every target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
export HF_HUB_OFFLINE = 1
# Tests start a hundred processes: without bytecode each of them would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve test soak check fix bench clean

demo: .venv/.demo
	$(BIN)/lorikeet serve --model demo --quantization nf4 --port $(PORT)

serve: .venv/.demo
	$(BIN)/lorikeet serve --port $(PORT) $(ARGS)

# A worker for each core, four at most, with one thread each; a file's tests stay together, as they share models.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak and not gpu" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# -rP shows what each proof measured. What asks how fast the server answers runs alone, after the rest.
soak: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "soak and not alone" -rP -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "soak and alone" -rP

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/budget.py

fix: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A short tour: some minutes on two cores, most of them for the model of real shape.
bench: .venv/.dev
	mkdir -p results
	$(BIN)/lorikeet bench latency --model demo --out results/latency-demo.json
	$(BIN)/lorikeet bench swap --out results/swap-demo.json
	$(BIN)/lorikeet bench fidelity --rows 10 --out results/fidelity-demo.json
	test -d results/qwen2.5-0.5b || $(BIN)/lorikeet bench make-model --shape qwen2.5-0.5b --out results/qwen2.5-0.5b
	$(BIN)/lorikeet bench latency --model results/qwen2.5-0.5b --quantization bf16 --batch 1,8 --adapters 1,8 --tokens 16 --out results/latency-0.5b.json
	$(BIN)/lorikeet bench report results/*.json --out results/report

# Not lorikeet-data: registered adapters are there.
clean:
	rm -rf .venv build dist

.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ .venv/.demo

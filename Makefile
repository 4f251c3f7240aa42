# make demo   trains a small security assistant from nothing and shows what it learnt
# make test   runs the whole suite
# make chaos  breaks a real Slurm: nodes, links, daemons; as root, some minutes (`sh .ci/slurm` installs what it needs)
# make lint   style, types and layers alone
# Each makes its environment first, in .venv. PYTHON=python3.12 chooses the interpreter.

VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test chaos lint clean

demo: $(READY)
	@$(VENV)/bin/python examples/demo.py

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

chaos: $(READY)
	MUSTER_REQUIRE_SLURM=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile tests/slurm -m chaos

lint: $(READY)
	$(VENV)/bin/python -m pytest tests/test_gates.py

$(READY): pyproject.toml constraints.txt .ci/environment
	@sh .ci/environment $(VENV)
	@touch $(READY)

clean:
	rm -rf $(VENV) build runs/demo

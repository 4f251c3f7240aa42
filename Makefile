# make demo   trains a small security assistant from nothing and shows what it learnt
# make test   runs the whole suite
# make chaos  breaks a real Slurm: nodes, links, daemons; as root, some minutes (`sh .ci/slurm` installs what it needs)
# make oldest tries the oldest libraries that pyproject.toml allows, in an environment of their own: build/oldest
# make lint   style, types and layers alone
# Each makes its environment first, in .venv. PYTHON=python3.12 chooses the interpreter.

VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test chaos oldest lint clean

demo: $(READY)
	@$(VENV)/bin/python examples/demo.py

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

chaos: $(READY)
	MUSTER_REQUIRE_SLURM=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile tests/slurm -m chaos

# What depends on other libraries' words, types and sums; `build/oldest/bin/python -m pytest` runs the rest.
oldest:
	sh .ci/oldest build/oldest
	build/oldest/bin/python -m pytest -n 2 --dist loadfile tests/fake_nvml tests/launch/test_cli.py \
		tests/launch/logs/test_progress.py tests/launch/spec/test_file.py tests/launch/render/test_configs.py \
		tests/launch/consistency/test_consistency.py tests/training/ranks/test_sums.py tests/training/model/test_loss.py \
		tests/runs/test_run_directory.py::test_a_complete_run_directory

lint: $(READY)
	$(VENV)/bin/python -m pytest tests/test_gates.py

$(READY): pyproject.toml constraints.txt .ci/environment
	@sh .ci/environment $(VENV)
	@touch $(READY)

clean:
	rm -rf $(VENV) build runs/demo

"""A worker's process, before it does anything."""

import os
from typing import Any

import pytest

from training import worker


@pytest.mark.parametrize(("given", "found"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_a_worker_started_by_hand_counts_gpus_as_its_checks_do(
    given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA reads the variable once, when it is first used."""
    seen = []

    def work(*arguments: Any) -> None:
        seen.append(os.environ.get("CUDA_DEVICE_ORDER"))

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(worker, "_work", work)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr("sys.argv", ["training", "spec.yaml"])
    monkeypatch.setenv("CUDA_DEVICE_ORDER", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit):
        worker.main()
    assert seen == [found]

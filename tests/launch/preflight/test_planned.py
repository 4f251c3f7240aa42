"""The plan itself."""

import pytest

from launch.preflight import planned
from tests.launch.preflight.conftest import ON_GPUS, context


@pytest.mark.parametrize(("share", "status"), [(0.5, "pass"), (0.79, "pass"), (0.9, "warn")])
def test_memory_within_what_is_planned_for(share: float, status: str) -> None:
    whole = ON_GPUS.memory.process_bytes / share
    topology = ON_GPUS.topology.model_copy(update={"memory_bytes": round(whole)})
    found = planned.fits(context(ON_GPUS.model_copy(update={"topology": topology})))
    assert (found.status, f"({100 * share:.0f} %)" in found.evidence) == (status, True)


def test_a_batch_that_does_not_add_up() -> None:
    assert planned.batch(context(ON_GPUS)).status == "pass"
    found = planned.batch(context(ON_GPUS.model_copy(update={"global_batch_size": 33})))
    assert (found.status, found.evidence) == ("fail", "4 x 4 x 2 = 32, not 33")

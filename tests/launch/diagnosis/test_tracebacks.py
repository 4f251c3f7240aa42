"""What a process was in the middle of, by its frames."""

import pytest

from launch.diagnosis.tracebacks import chained, doing, follows, ignored


def trace(*calls: tuple[str, str]) -> list[str]:
    lines = ["Traceback (most recent call last):"]
    for file, name in calls:
        lines += [f'  File "{file}", line 12, in {name}', "    something()"]
    return lines


@pytest.mark.parametrize(
    ("calls", "what"),
    [
        ([("transformers/trainer.py", "training_step"), ("modeling.py", "forward")], "forward"),
        ([("torch/_tensor.py", "backward")], "backward"),
        # Recomputed activations: forward inside backward.
        ([("torch/_tensor.py", "backward"), ("checkpoint.py", "backward"), ("m.py", "forward")], "backward"),
        # DeepSpeed steps inside accelerate's backward.
        ([("accelerate/utils/deepspeed.py", "backward"), ("deepspeed/runtime/engine.py", "step")], "optimizer step"),
        ([("accelerate/optimizer.py", "step"), ("torch/optim/adamw.py", "_init_group")], "optimizer step"),
        ([("transformers/trainer.py", "evaluate"), ("m.py", "forward")], "evaluation"),
        ([("transformers/modeling_utils.py", "from_pretrained")], "loading"),
        ([("transformers/trainer.py", "_save_checkpoint"), ("torch/serialization.py", "save")], "saving"),
        ([("game.py", "step")], None),
        ([], None),
    ],
)  # fmt: skip
def test_what_it_was_doing(calls: list[tuple[str, str]], what: str | None) -> None:
    assert doing(trace(*calls)) == what


def test_only_the_last_traceback_counts() -> None:
    assert doing([*trace(("torch/_tensor.py", "backward")), *trace(("m.py", "forward"))]) == "forward"


def test_the_boxes_of_rich() -> None:
    assert doing(["│ /opt/torch/_tensor.py:492 in backward      │"]) == "backward"


def test_one_exception_of_another() -> None:
    assert chained(["", "During handling of the above exception, another exception occurred:", ""])
    assert chained(["The above exception was the direct cause of the following exception:"])
    assert not chained(["", "step 5"])


def test_an_exception_that_python_sets_aside() -> None:
    assert ignored(["Exception ignored in: <function x>", *trace(("a.py", "__del__"))])
    assert not ignored(trace(("a.py", "run")))
    assert not ignored(["no traceback"])


def test_a_sentence_is_no_traceback() -> None:
    assert follows(trace(("a.py", "run")))
    assert not follows(["step 5", "step 6"])

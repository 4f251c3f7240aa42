"""What a Python process was doing when an exception ended it, from the frames of its traceback. Pure."""

import re
from collections.abc import Sequence

from launch.diagnosis.known import Doing

HEAD = "Traceback (most recent call last)"
# How Python says that one exception came of another, between their tracebacks.
CHAINED = (
    "The above exception was the direct cause of the following exception",
    "During handling of the above exception, another exception occurred",
)
# Of a traceback that Python prints of an exception which ended nothing.
IGNORED = "Exception ignored in"
_FRAME = re.compile(r'File "([^"]+)", line \d+, in (\S+)|│ (\S+?):\d+ in (\S+)')
_EVALUATION = {"evaluation_loop", "prediction_loop", "prediction_step", "evaluate", "_evaluate", "summed_loss"}
_BACKWARD = {"backward", "run_backward", "_engine_run_backward"}
_SAVING = {"save_checkpoint", "_save_checkpoint", "save_pretrained", "save_file", "save_model", "_save", "save"}
_LOADING = {
    "from_pretrained",
    "_load_pretrained_model",
    "load_state_dict",
    "_load_state_dict_into_meta_model",
    "safe_open",
}
_FORWARD = {"forward", "_call_impl", "compute_loss"}
_OPTIMIZER = {"_take_model_step", "_init_group", "_maybe_opt_step", "adamw", "_multi_tensor_adamw"}


def doing(lines: Sequence[str]) -> Doing | None:
    """What the last traceback in these lines was in the middle of.

    Evaluation and optimizer first: DeepSpeed steps inside backward(), and recomputing activations calls forward there.
    """
    start = max((number for number, line in enumerate(lines) if HEAD in line), default=0)
    frames = [found for line in lines[start:] for found in _FRAME.finditer(line)]
    calls = [(frame[1] or frame[3], frame[2] or frame[4]) for frame in frames]
    names = {name for _, name in calls}
    if names & _EVALUATION:
        return "evaluation"
    if names & _OPTIMIZER or any(name == "step" and _steps(file) for file, name in calls):
        return "optimizer step"
    if names & _BACKWARD:
        return "backward"
    if names & _SAVING:
        return "saving"
    if names & _LOADING:
        return "loading"
    return "forward" if names & _FORWARD else None


def _steps(file: str) -> bool:
    return "optim" in file or "/zero/" in file or file.endswith(("engine.py", "lr_scheduler.py", "grad_scaler.py"))


def follows(before: Sequence[str]) -> bool:
    """Whether a traceback stands in these lines, the newest last."""
    return any(HEAD in line or _FRAME.search(line) for line in before[-200:])


def chained(after: Sequence[str]) -> bool:
    """Whether the exception that these lines follow is the reason for another one, printed next."""
    return any(phrase in line for line in after[:8] for phrase in CHAINED)


def ignored(before: Sequence[str]) -> bool:
    """Whether the traceback that these lines end with is of an exception that Python set aside."""
    start = max((number for number, line in enumerate(before) if HEAD in line), default=None)
    return start is not None and any(IGNORED in line for line in before[max(0, start - 1) : start + 1])

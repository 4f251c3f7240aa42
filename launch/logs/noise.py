"""Lines of a rank's log that a person should see: warnings, without those that are known to be harmless. Pure.

The log keeps every line; this decides about the screen alone.
"""

import re
from dataclasses import dataclass

from launch.wording import printable

# What says how bad a line is, where it comes from and what it is about, as each writes it.
_FORMS = tuple(
    re.compile(form)
    for form in (
        # Python's warnings: /path/module.py:3303: FutureWarning: text
        r"(?P<where>[^\s:][^:]*:\d+): (?P<level>\w*Warning): (?P<text>.*)",
        # DeepSpeed: [2026-01-31 09:08:30,019] [WARNING] [real_accelerator.py:213:get_accelerator] text
        r"\[[-\d]+ [\d:,.]+\] \[(?P<level>WARNING|ERROR|CRITICAL)\] \[(?P<where>[^\]]+)\] (?P<text>.*)",
        # transformers told to say more, and PYTHON_FORMAT: [WARNING|module.py:12] 2026-01-31 09:08:30 >> text
        r"\[(?P<level>WARNING|ERROR|CRITICAL)\|(?P<where>[^\]]+)\] (?:[-\d]+ [\d:,.]+ >> )?(?P<text>.*)",
        # logging.basicConfig: WARNING:module:text
        r"(?P<level>WARNING|ERROR|CRITICAL):(?P<where>[\w.]+):(?P<text>.*)",
        # torch: W0131 09:08:17.311000 27505 torch/distributed/run.py:874] text, from C++ in brackets
        r"(?:\[rank\d+\]:)?\[?(?P<level>W)\d{4} [\d:.]+ (?:\d+ )?(?P<where>\S+:\d+)\] (?:Warning: )?(?P<text>.*)",
        # NCCL: host:27505:27511 [0] misc/socket.cc:50 NCCL WARN text
        r"\S+:\d+:\d+ \[\d+\] (?:(?P<where>\S+:\d+) )?NCCL (?P<level>WARN) (?P<text>.*)",
    )
)
# For logging.lastResort, which prints the warnings of libraries that set nothing up: by itself without a level.
PYTHON_FORMAT = "[%(levelname)s|%(name)s] %(message)s"


@dataclass(frozen=True)
class Harmless:
    name: str
    pattern: re.Pattern[str]
    """Found in a warning's line."""
    why: str


def _harmless(name: str, pattern: str, why: str) -> Harmless:
    return Harmless(name, re.compile(pattern), why)


HARMLESS = (
    _harmless(
        "deprecation",
        r"/(?:site|dist)-packages/.*: (?:Future|Deprecation|PendingDeprecation)Warning: ",
        "a library tells another one about its next version; the versions that run are those that were checked",
    ),
    _harmless(
        "omp-threads",
        r"torch/distributed/run\.py:\d+\] *(?:\**$|Setting OMP_NUM_THREADS)",
        "torchrun's default of one thread a process; the rows are tokenised before, by processes of their own",
    ),
    _harmless(
        "deepspeed-accelerator",
        r"real_accelerator\.py.*Setting (?:ds_)?accelerator to",
        "which device DeepSpeed has found; every worker compares its own with the plan before its first step",
    ),
    _harmless(
        "int8-cast",
        r"MatMul8bitLt: inputs will be cast",
        "how bitsandbytes multiplies in int8, which model.quantization asks for",
    ),
    _harmless(
        "early-stopping-best",
        r"Using EarlyStoppingCallback without load_best_model_at_end",
        "muster loads the best adapter itself, from its own checkpoint (docs/runs.md)",
    ),
    _harmless(
        "paged-on-cpu",
        r"Paged optimizers are not supported on CPU",
        "pages move an optimizer's states to host memory, where on a CPU they are already; the numbers are the same",
    ),
    _harmless(
        "no-cache-while-training",
        r"[Cc]ach(?:e|ing)\S* is incompatible with gradient checkpointing",
        "keys and values are kept for generating; training has no use for them",
    ),
    _harmless(
        "special-tokens",
        r"The tokenizer has new PAD/BOS/EOS tokens",
        "the Trainer gives the model the tokenizer's special tokens, which the rows were made with",
    ),
    _harmless(
        "process-group-at-exit",
        r"destroy_process_group\(\) was not called",
        "a worker ends at once when its work is done, and the process group with it",
    ),
    _harmless(
        "no-name-of-a-peer",
        r"The hostname of the client socket cannot be retrieved",
        "torch looks an address up to name it in its messages; the connection is there",
    ),
    _harmless(
        "no-ipv6",
        r"errno: 97 - Address family not supported",
        "torch tries IPv6 first, then the address that the ranks meet at",
    ),
)


@dataclass(frozen=True)
class Warned:
    """A warning in a rank's log."""

    key: str
    """The same for every rank that says it, and each time."""
    text: str
    source: str
    """Module and line, or the name of a logger."""


def warning(line: str) -> Warned | None:
    """The warning that a line is; None for any other line, and for one that is known to be harmless."""
    match = next(filter(None, (form.fullmatch(line) for form in _FORMS)), None)
    if match is None or harmless(line) or not match["text"].strip():
        return None
    level, text, where = match["level"], printable(match["text"].strip()), match["where"] or ""
    # Only Python's own kinds say more than that it is a warning.
    shown = f"{level}: {text}" if level.endswith("Warning") and level != "UserWarning" else text
    source = re.sub(r"(:\d+):\w+$", r"\1", where.rpartition("/")[2])
    return Warned(f"{source} {_alike(text)}", f"error: {shown}" if level in ("ERROR", "CRITICAL") else shown, source)


def harmless(line: str) -> Harmless | None:
    return next((known for known in HARMLESS if known.pattern.search(line)), None)


def _alike(text: str) -> str:
    """Without what differs from rank to rank and from time to time: numbers and addresses."""
    return re.sub(r"0x[0-9a-f]+|\d+(?:\.\d+)*", "#", text)

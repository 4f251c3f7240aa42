"""Rows to tokens: muster against its peers, on the same rows, with the same tokenizer, in the same run.

    python benchmarks/data.py                                       the shipped rows and the tiny base's tokenizer
    python benchmarks/data.py --rows alpaca.json --tokenizer DIR    other rows and a model's tokenizer
    python benchmarks/data.py --trl PYTHON --llamafactory PYTHON    peers, each by the Python of its own environment
    python benchmarks/data.py --validate 5000000                    so many rows validated, with the peak of memory
    python benchmarks/data.py --collate                             one packed sequence made a micro-batch

Each side tokenises, marks what is trained on and packs, with two processes. The sides take turns; the ratio is that of
the medians. Packing alone is timed on a million lengths.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PEERS = {"TRL": "trl_data.py", "LLaMA-Factory": "llamafactory_data.py"}
MAX_LENGTH = 2048


def main() -> None:
    arguments = _arguments()
    if arguments.validate:
        print(json.dumps(validate(arguments.validate), indent=1))
        return
    if arguments.collate:
        print(json.dumps(collate(), indent=1))
        return
    given = {"TRL": arguments.trl, "LLaMA-Factory": arguments.llamafactory}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        count = _write_rows(rows, arguments.rows, arguments.count)
        ours: dict[str, list[float]] = {"muster": [], "muster with every check": []}
        peers = {name: python for name, python in given.items() if python}
        theirs: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(arguments.repeats):
            for name, checked in (("muster", True), ("muster with every check", False)):
                seconds, yielded = _muster(rows, arguments.tokenizer, checked)
                ours[name].append(count / seconds)
            for name, python in peers.items():
                theirs[name].append(count / _peer(name, rows, arguments.tokenizer, python))
    result: dict[str, Any] = {"rows": count, "packing_yield": yielded}
    result |= {f"{name}, rows/s": round(statistics.median(found)) for name, found in ours.items()}
    for name, found in theirs.items():
        result[f"{name}, rows/s"] = round(statistics.median(found))
        result[f"ratio to {name}"] = round(statistics.median(ours["muster"]) / statistics.median(found), 2)
    result["packing alone, lengths/s"] = round(_packing())
    print(json.dumps(result, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROOT / "examples/security-rag/train.jsonl")
    parser.add_argument("--count", type=int, default=20_000, help="rows, the given ones repeated")
    parser.add_argument("--tokenizer", default=str(ROOT / "build/tiny-base"))
    parser.add_argument("--trl", metavar="PYTHON", help="of an environment with TRL")
    parser.add_argument("--llamafactory", metavar="PYTHON", help="of an environment with LLaMA-Factory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--validate", type=int, metavar="ROWS", help="validate so many rows and tell the peak of memory"
    )
    parser.add_argument("--collate", action="store_true", help="time the collator, which runs between two steps")
    return parser.parse_args()


def _write_rows(path: Path, source: Path, count: int) -> int:
    """The rows as conversations, repeated up to `count`: what both sides read."""
    from training.data.rows.formats import to_sample
    from training.data.rows.sources import rows_of

    samples = [to_sample(row.read(), row.file, row.line, "auto", {}) for row in rows_of(str(source))]
    with open(path, "w") as file:
        for number in range(count):
            messages = samples[number % len(samples)].conversation
            file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
    return count


def _muster(rows: Path, tokenizer: str, checked: bool) -> tuple[float, float]:
    """(seconds, packing yield) of a process that does what a worker does before its model is loaded.

    `checked` says that the rows' content was searched before, as `muster run` does; a launch by hand does it here.
    """
    code = (
        "import sys, time, json\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "import tempfile\n"
        "from launch.spec import DataSpec\n"
        "from training.data.encoding.tokenizer import load_chat_files\n"
        "from training.data.sequences.tokens import note_checked, prepare, rows_fingerprints\n"
        "if __name__ == '__main__':\n"
        f"    chat = load_chat_files({tokenizer!r})\n"
        f"    data = DataSpec(train={str(rows)!r}, max_length={MAX_LENGTH})\n"
        "    with tempfile.TemporaryDirectory() as cache:\n"
        f"        {'note_checked(rows_fingerprints(data), Path(cache))' if checked else ''}\n"
        "        began = time.perf_counter()\n"
        "        rows = prepare(data, chat, Path(cache), writer=True).train\n"
        "        seconds = time.perf_counter() - began\n"
        f"        print(json.dumps([seconds, rows.statistics.tokens / (len(rows) * {MAX_LENGTH})]))\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        done = subprocess.run([sys.executable, script.name], capture_output=True, text=True, check=True)
    seconds, yielded = json.loads(done.stdout.splitlines()[-1])
    return seconds, round(yielded, 5)


def _peer(name: str, rows: Path, tokenizer: str, python: str) -> float:
    script = ROOT / "benchmarks/peers" / PEERS[name]
    done = subprocess.run([python, script, rows, tokenizer, str(MAX_LENGTH)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _packing() -> float:
    """Lengths a second, of a million drawn from a log-normal distribution as questions and answers have."""
    from training.data.sequences.packing import pack

    drawn = np.random.default_rng(0).lognormal(5.3, 0.8, 1_000_000)
    lengths = np.clip(drawn, 1, MAX_LENGTH).astype(np.int32)
    began = time.perf_counter()
    pack(lengths, MAX_LENGTH)
    return len(lengths) / (time.perf_counter() - began)


def validate(count: int) -> dict[str, float]:
    """Memory and time of `muster data validate` over many different rows."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(20_000)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        with open(path, "w") as file:
            for number in range(count):
                question, answer = (" ".join(draw.choices(words, k=length)) for length in (8, 16))
                file.write(json.dumps({"id": f"row-{number}", "instruction": question, "output": answer}) + "\n")
        began = time.perf_counter()
        command = [sys.executable, "-m", "launch", "data", "validate", path, "--quarantine", Path(folder, "bad.jsonl")]
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"rows": count, "rows/s": round(count / seconds), "peak GiB of the largest process": round(peak / 2**30, 3)}


def collate(length: int = 4096, documents: int = 10, times: int = 200) -> dict[str, Any]:
    """Milliseconds in which a packed sequence becomes a micro-batch for attention by documents and a loss in chunks."""
    import torch

    from benchmarks.throughput import machine
    from training.model.collate import Collator

    torch.set_num_threads(1)
    bounds = np.linspace(0, length, documents + 1).astype(int)
    row = {"index": 0, "input_ids": np.arange(length), "labels": np.arange(length), "lengths": np.diff(bounds).tolist()}
    collator, spent = Collator(0, packed=True, chunked_loss=True, varlen=True, masks_by_name=True), []
    for _ in range(times):
        began = time.perf_counter()
        collator([row])
        spent.append(1000 * (time.perf_counter() - began))
    return {
        **machine(cpu=True),
        "tokens": length,
        "documents": documents,
        "median_ms": round(statistics.median(spent), 3),
    }


if __name__ == "__main__":
    main()

"""How long the rows are, what is trained on, and how well they pack: `muster data stats`."""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.errors import HostError
from launch.spec import DataSpec
from training.data.encoding.template import ChatFiles
from training.data.sequences.packing import pack
from training.data.sequences.tokens import Sequences, prepare

BINS = 16
PERCENTILES = (5, 25, 50, 75, 95, 99, 100)


def measure(data: DataSpec, chat: ChatFiles) -> dict[str, Any]:
    """Statistics of each split, with the seconds and the peak memory that reading and tokenising took.

    Rows with errors are left out and counted: `muster data validate` tells which and why.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare(data.model_copy(update={"on_bad_row": "quarantine"}), chat, Path(cache), writer=True)
        seconds = time.monotonic() - began
        splits = {"train": prepared.train, "eval": prepared.evaluation}
        measured = {name: _split(rows, data.max_length) for name, rows in splits.items() if rows is not None}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    total = sum(split["rows"] for split in measured.values())
    return {
        "max_length": data.max_length, "packing": data.packing, "splits": measured, "seconds": round(seconds, 3),
        "rows_per_second": round(total / seconds, 1), "peak_memory_bytes": peak * 1024,
    }  # fmt: skip


def _split(rows: Sequences, max_length: int) -> dict[str, Any]:
    statistics, lengths = rows.statistics, rows.lengths()
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 1)
    edges = np.unique(np.linspace(low, max(high, low + 1), BINS + 1).round().astype(int))
    counted, _ = np.histogram(lengths, edges)
    return {
        "rows": statistics.rows, "samples": statistics.samples, "quarantined_rows": statistics.quarantined_rows,
        "tokens": statistics.tokens, "trainable_tokens": statistics.trainable_tokens,
        "trainable_share": round(statistics.trainable_tokens / max(1, statistics.tokens), 4),
        "changes": statistics.counts, "packing_yield": packing_yield(lengths, max_length),
        "sequences": statistics.sequences,
        "padding_share_without_packing": round(1 - float(lengths.mean() / lengths.max()), 4) if len(lengths) else 0.0,
        "length_percentiles": {str(p): int(np.percentile(lengths, p)) for p in PERCENTILES} if len(lengths) else {},
        "histogram": {"edges": edges.tolist(), "counts": counted.tolist()},
    }  # fmt: skip


def packing_yield(lengths: NDArray[np.int64], max_length: int) -> float:
    """Share of the positions of packed sequences that hold a token."""
    if not len(lengths):
        return 0.0
    packs = pack(lengths.astype(np.int32), max_length)
    return round(float(lengths.sum()) / (len(packs) * max_length), 5)


def draw(measured: dict[str, Any], path: Path) -> None:
    """The histograms as a picture; its format is that of the file's ending (.png, .svg, .pdf)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    splits = measured["splits"]
    figure, axes = pyplot.subplots(len(splits), 1, figsize=(8, 3.2 * len(splits)), squeeze=False, layout="constrained")
    for axis, (name, split) in zip(axes[:, 0], splits.items(), strict=True):
        edges = split["histogram"]["edges"]
        axis.bar(edges[:-1], split["histogram"]["counts"], np.diff(edges), align="edge", edgecolor="white")
        axis.set_title(
            f"{name}: {split['samples']:,} samples, {split['tokens']:,} tokens,"
            f" {100 * split['trainable_share']:.1f} % trained on, packing yield {100 * split['packing_yield']:.2f} %",
            fontsize=10,
        )
        axis.set_xlabel("tokens of a sample")
        axis.set_ylabel("samples")
        axis.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise HostError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)

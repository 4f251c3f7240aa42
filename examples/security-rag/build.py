"""Writes train.jsonl and eval.jsonl from documents/ and questions/.

    python examples/security-rag/build.py            rewrites both files
    python examples/security-rag/build.py --check    exits with 1 if either is not what would be written

The split is by document: a question goes where its documents are, and so do the distractors it is given, so that no
evaluation document is seen in training.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SEED = 42
# One document of each of the thirteen topics.
EVALUATION = (
    "web-security-headers",
    "id-privileged-access",
    "crypto-signatures",
    "net-ddos",
    "cloud-serverless",
    "ctr-secrets",
    "sc-vendor-risk",
    "det-alert-triage",
    "ir-lessons",
    "for-cloud",
    "vm-pentest",
    "gov-continuity",
    "ml-evaluation",
)
DISTRACTORS = 1

Document = dict[str, str]
Row = dict[str, Any]


def documents() -> dict[str, Document]:
    """Every document by id: its `# Title` line apart from its text."""
    found = {}
    for path in sorted((HERE / "documents").glob("*.md")):
        heading, _, text = path.read_text(encoding="utf-8").partition("\n")
        if not heading.startswith("# "):
            raise SystemExit(f"{path}: the first line is not a `# Title`")
        found[path.stem] = {"id": path.stem, "title": heading.removeprefix("# ").strip(), "text": text.strip()}
    return found


def questions() -> list[Row]:
    """Every question, in the order of the files and of their lines."""
    paths = sorted((HERE / "questions").glob("*.jsonl"))
    return [
        json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def drawn(ids: list[str], purpose: str) -> list[str]:
    """The ids in a random order that depends on nothing but the seed, the purpose and the ids.

    A hash and not `random`: the order holds over Python versions, and a new question leaves the other rows as they are.
    """
    return sorted(ids, key=lambda name: hashlib.sha256(f"{SEED} {purpose} {name}".encode()).digest())


def rows() -> dict[str, list[Row]]:
    """The rows of each file, by the file's name."""
    library = documents()
    splits = {"train.jsonl": [name for name in library if name not in EVALUATION], "eval.jsonl": list(EVALUATION)}
    written: dict[str, list[Row]] = {name: [] for name in splits}
    for question in questions():
        # An unanswerable question comes with the document that it seems to be about.
        needed = question["oracle"] or [question["about"]]
        homes = [name for name, ids in splits.items() if set(needed) <= set(ids)]
        if len(homes) != 1:
            raise SystemExit(f"{question['id']}: its documents {', '.join(needed)} are unknown or in two splits")
        others = [name for name in splits[homes[0]] if name not in needed]
        chosen = needed + drawn(others, f"distractors {question['id']}")[:DISTRACTORS]
        shown = [library[name] for name in drawn(chosen, f"order {question['id']}")]
        written[homes[0]].append(
            {"id": question["id"], "question": question["question"], "documents": shown, "answer": question["answer"]}
        )
    return written


def files() -> dict[str, str]:
    """The text of each file, by name."""
    return {name: "".join(json.dumps(row) + "\n" for row in kept) for name, kept in rows().items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write train.jsonl and eval.jsonl from documents/ and questions/.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file differs from what would be written"
    )
    check = parser.parse_args().check
    stale = 0
    for name, text in files().items():
        path = HERE / name
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"{path}: {text.count(chr(10))} rows")
        elif not path.exists() or path.read_bytes() != text.encode():
            stale = 1
            print(f"{path}: is not what build.py writes; run it without --check", file=sys.stderr)
    return stale


if __name__ == "__main__":
    sys.exit(main())

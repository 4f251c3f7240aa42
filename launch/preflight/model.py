"""The model's files, its tokenizer and its chat template."""

import json
import shutil
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from launch.model.files import directory_problems, find, hub_name, import_cache, is_original, problems
from launch.model.weights import weight_files
from launch.preflight.check import Check
from launch.preflight.result import Context, Finding, failed, passed, unknown, warned
from launch.rundir import MANIFEST
from launch.wording import amount, first_line

COMPLETE = "take the tokenizer's files from the model's own repository"


def files(context: Context) -> Finding:
    """Every file that loading will open is there."""
    variant = context.plan.spec.model.variant
    missing = problems(variant)
    if missing:
        return failed("; ".join(missing), "complete the model's files, or change model.variant")
    directory = find(variant)
    if directory is None or directory_problems(directory):
        part = "" if directory is None else "whole "
        fix = f"download it before the job waits for it: hf download {hub_name(variant)}"
        return warned(f"{variant} is not {part}on this machine and will be downloaded", fix)
    return _to_import(directory) if is_original(directory) else passed(str(directory))


def _to_import(directory: Path) -> Finding:
    """An original checkpoint is imported at its first use, which needs its size once more."""
    out = import_cache(directory)
    if (out / MANIFEST).is_file():
        return passed(f"{directory}, imported into {out}")
    parent = next(path for path in out.parents if path.is_dir())
    needed = sum(path.stat().st_size for path in weight_files(directory, original=True))
    free = shutil.disk_usage(parent).free
    told = f"{directory}, in the original layout, will be imported into {out}: {amount(needed)}, {amount(free)} free"
    if free < needed:
        return failed(told, f"free space, or: muster model import {directory} --out DIR, and model.variant: DIR")
    return passed(told)


class _Generation(Extension):
    """The tag that transformers adds: {% generation %}, around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def tokenizer(context: Context) -> Finding:
    """It can be read, has no more tokens than the model, and a chat template that can be filled in.

    From its files, with the library that reads them: transformers would take seconds.
    """
    from tokenizers import Tokenizer

    directory = find(context.plan.spec.model.variant)
    assert directory is not None, "skipped by _not_here"
    file, vocabulary = directory / "tokenizer.json", context.plan.architecture.vocab_size
    if not file.is_file():  # transformers makes one of tokenizer.model or vocab.json
        return unknown(f"{directory} has no tokenizer.json to look at before the model is loaded", COMPLETE)
    try:
        tokens = Tokenizer.from_file(str(file)).get_vocab_size()
        template = _chat_template(directory)
        ImmutableSandboxedEnvironment(extensions=[_Generation, "jinja2.ext.loopcontrols"]).from_string(template)
    except TemplateError as error:
        return failed(f"{directory}: its chat template cannot be read: {first_line(error)}", COMPLETE)
    except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself for a file that it cannot read
        return failed(f"{directory}: its tokenizer cannot be read: {first_line(error)}", COMPLETE)
    if not template:
        return failed(f"{directory} has no chat template", "use the instruct or chat variant")
    if tokens > vocabulary:
        return failed(f"the tokenizer has {tokens:,} tokens, the model's vocabulary {vocabulary:,}", COMPLETE)
    return passed(f"{tokens:,} tokens, with a chat template", tokens=tokens)


def _chat_template(directory: Path) -> str:
    """The one called `default` where there are several; empty without one. Raises OSError or ValueError."""
    own = directory / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(found, list):
        return next((str(each["template"]) for each in found if each.get("name") == "default"), "")
    return str(found or "")


def _not_here(context: Context) -> str | None:
    """A model that will be downloaded or imported has no tokenizer to look at yet."""
    directory = find(context.plan.spec.model.variant)
    if directory is None or directory_problems(directory):
        return "the model's files are not on this machine yet"
    return "it is imported with the model" if is_original(directory) else None


def _causality(context: Context) -> str | None:
    return "needs the loaded model: every worker looks before its first step"


CHECKS = (
    Check("model-files", "model", "files of the model that are missing or cut short", "its index and config", files),
    Check(
        "tokenizer", "model", "a tokenizer that cannot be read or is another model's", "it is loaded", tokenizer,
        _not_here, 15.0,
    ),
    Check(
        "causality", "model", "a model that looks ahead (Qwen#933)", "a later token changes no logit",
        concerns=_causality,
    ),
)  # fmt: skip

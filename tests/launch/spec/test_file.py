"""runspec.py and file.py: what a spec may say, and how each mistake in it is told."""

import importlib.metadata
from pathlib import Path

import pytest

from launch.errors import SpecError, UsageError
from launch.spec import RunSpec, training_identity
from launch.spec.explain import shown
from launch.spec.extra import DECIDED_ELSEWHERE, READ, refused
from launch.spec.file import draft, looks_like_path, missing_data, parse_spec, read_spec, training_arguments
from tests.launch.conftest import spec_of

BASE = """\
name: demo
model:
  variant: qwen2.5-14b-instruct
data:
  train: train.jsonl
"""
TRAINING_KEYS = (
    "epochs, max_steps, micro_batch_size, gradient_accumulation_steps, global_batch_size, learning_rate, lr_scheduler,"
    " warmup_ratio, weight_decay, max_grad_norm, optimizer, precision, save_steps, save_total_limit, async_save,"
    " log_steps, eval_steps, eval_samples, eval_max_new_tokens, early_stopping_patience, gradient_checkpointing, loss,"
    " compile, gradient_as_bucket_view, seed, report_to, extra"
)
SECRET_MESSAGE = (
    "looks like a secret; a spec is copied into the run directory: pass it through the environment"
    " (HF_TOKEN, WANDB_API_KEY)"
)


def parse(*lines: str, overrides: list[str] | None = None) -> RunSpec:
    return parse_spec(BASE + "".join(f"{line}\n" for line in lines), "spec.yaml", overrides)


def mistake(*lines: str, overrides: list[str] | None = None) -> str:
    """The whole message of BASE with these lines, which start at line 6."""
    return mistake_of(BASE + "".join(f"{line}\n" for line in lines), overrides)


def mistake_of(text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "spec.yaml", overrides)
    return str(caught.value)


# What a spec says


def test_three_lines_are_a_spec_and_the_rest_is_the_recipe() -> None:
    spec = parse()
    assert (spec.name, spec.model.variant, spec.data.train) == ("demo", "qwen2.5-14b-instruct", "train.jsonl")
    assert spec.model.quantization == "none"
    assert spec.lora.model_dump() == {
        "rank": 8,
        "alpha": 32,
        "dropout": 0.05,
        "target_modules": "all-linear",
        "layers_to_transform": None,
        "modules_to_save": [],
        "bias": "none",
        "precision": "auto",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": "default",
        "loraplus_lr_ratio": None,
        "implementation": "auto",
        "cast_inputs": False,
        "adapter": None,
    }
    assert spec.data.model_dump() == {
        "train": "train.jsonl",
        "eval": None,
        "format": "auto",
        "columns": {},
        "max_length": 4096,
        "packing": True,
        "on_bad_row": "fail",
        "accept": [],
    }
    assert spec.training.model_dump() == {
        "epochs": 3,
        "max_steps": None,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "global_batch_size": None,
        "learning_rate": 2.0e-4,
        "lr_scheduler": "constant",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 0.3,
        "optimizer": "paged_adamw_32bit",
        "precision": "auto",
        "save_steps": 25,
        "save_total_limit": 3,
        "async_save": True,
        "log_steps": 25,
        "eval_steps": None,
        "eval_samples": None,
        "eval_max_new_tokens": 256,
        "early_stopping_patience": None,
        "gradient_checkpointing": "auto",
        "loss": "auto",
        "compile": False,
        "gradient_as_bucket_view": True,
        "seed": 42,
        "report_to": [],
        "extra": {},
    }
    assert spec.cluster.model_dump() == {
        "nodes": 1,
        "devices_per_node": "auto",
        "device": "auto",
        "strategy": "auto",
        "network_gbps": 100,
        "memory_share": 0.8,
    }
    assert spec.slurm.model_dump() == {
        "partition": "gpu",
        "account": None,
        "time": "12:00:00",
        "spares": 0,
        "grace_seconds": 180,
        "qos": None,
        "reservation": None,
        "constraint": None,
        "exclude": [],
        "gres": "gpu",
        "gpu_type": None,
        "gpu_model": None,
        "cpus_per_task": "auto",
        "mem": "auto",
        "requeue": True,
        "output": None,
        "modules": [],
        "venv": None,
        "environment": {},
        "container": {"runtime": "apptainer", "image": None, "mounts": [], "python": "python3"},
        "extra": [],
    }


def test_every_value_of_the_spec_is_documented() -> None:
    schema = RunSpec.model_json_schema()
    undocumented = [
        f"{section}.{name}"
        for section, definition in schema["$defs"].items()
        for name, value in definition["properties"].items()
        if not value.get("description", "").endswith((".", ")"))
    ]
    assert undocumented == []


def test_a_number_may_be_written_with_an_exponent() -> None:
    assert parse("training:", "  learning_rate: 2e-4").training.learning_rate == 2e-4


def test_a_time_is_text_and_not_a_number_of_seconds() -> None:
    assert parse("slurm:", "  time: 12:30:00").slurm.time == "12:30:00"


def test_no_is_text_and_not_false() -> None:
    assert parse("slurm:", "  account: no").slurm.account == "no"


def test_a_number_with_a_leading_zero_is_decimal() -> None:
    assert parse("training:", "  seed: 012").training.seed == 12


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().name = "other"  # type: ignore[misc]


# Where its files are


def test_relative_paths_start_at_the_folder_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    file = tmp_path / "spec.yaml"
    file.write_text("name: demo\nmodel: {variant: base}\ndata: {train: rows/train.jsonl, eval: ../eval.jsonl}\n")
    spec = read_spec(file)
    assert spec.model.variant == str(tmp_path / "base")
    assert spec.data.train == str(tmp_path / "rows/train.jsonl")
    assert spec.data.eval == str(tmp_path.parent / "eval.jsonl")


def test_absolute_paths_hub_ids_and_known_names_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    for variant in ("Qwen/Qwen3-8B", "qwen3-8b", "/models/base"):
        file.write_text(f"name: demo\nmodel: {{variant: {variant}}}\ndata: {{train: /data/train.jsonl}}\n")
        spec = read_spec(file)
        assert (spec.model.variant, spec.data.train) == (variant, "/data/train.jsonl")


@pytest.mark.parametrize("text", ["./base", "../base", "/models/base", "~/base", "a/b/c"])
def test_a_variant_that_can_only_be_a_folder(text: str) -> None:
    assert looks_like_path(text)


@pytest.mark.parametrize("text", ["qwen3-8b", "Qwen/Qwen3-8B"])
def test_a_variant_that_can_be_a_name(text: str) -> None:
    assert not looks_like_path(text)


# Overrides


def test_an_override_has_the_type_that_yaml_gives_it() -> None:
    overrides = ["training.epochs=1", "lora.target_modules=[q_proj, v_proj]", "training.extra.adam_beta2=0.98"]
    spec = parse(overrides=overrides)
    assert spec.training.epochs == 1
    assert spec.lora.target_modules == ["q_proj", "v_proj"]
    assert spec.training.extra == {"adam_beta2": 0.98}


def test_an_override_mends_what_the_file_says() -> None:
    assert parse("training: {epochs: three}", overrides=["training.epochs=3"]).training.epochs == 3


def test_a_mistake_in_an_override_names_the_override() -> None:
    assert mistake(overrides=["training.epochs=soon"]) == (
        "-s training.epochs=soon: training.epochs: 'soon' is not allowed;"
        " allowed: a number at least 1e-30 and at most 1e+30 (Passes over the training rows)"
    )


@pytest.mark.parametrize("value", ["!!int x", "!!float x", "!!bool three", "!!timestamp x"])
def test_a_value_that_is_not_of_its_tag(value: str) -> None:
    told = f"-s training.epochs={value}: {value} cannot be read; leave the tag (!!) away"
    with pytest.raises(UsageError) as caught:
        parse(overrides=[f"training.epochs={value}"])
    assert str(caught.value) == told
    tag, text = value.removeprefix("!!").split()
    assert f"training.epochs: '{text}' cannot be read as tag:yaml.org,2002:{tag}" in mistake(
        f"training: {{epochs: {value}}}"
    )


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training..epochs=3"])
def test_an_override_without_key_or_value(override: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(overrides=[override])
    assert str(caught.value) == (f"-s {override}: an override is key.path=value, for example -s training.epochs=1")


def test_an_override_below_a_value() -> None:
    with pytest.raises(UsageError) as caught:
        parse(overrides=["name.first=x"])
    assert str(caught.value) == "-s name.first=x: name is a value, not a section"


# Keys


def test_a_misspelt_key_gets_the_nearest_name() -> None:
    assert mistake("training:", "  learning_rat: 1.0e-4") == (
        f"spec.yaml:7:3: training.learning_rat: unknown key. Did you mean 'learning_rate'? Allowed: {TRAINING_KEYS}"
    )


def test_a_key_in_the_wrong_section_is_told_where_it_belongs() -> None:
    assert mistake("learning_rate: 1.0e-4") == (
        "spec.yaml:6:1: learning_rate: unknown key. Did you mean training.learning_rate?"
        " Allowed: name, model, lora, data, training, cluster, slurm, preflight, recovery,"
        " stability, monitoring"
    )


def test_a_key_like_no_other() -> None:
    assert mistake("xyz: 1") == (
        "spec.yaml:6:1: xyz: unknown key. Allowed: name, model, lora, data, training, cluster, slurm, preflight,"
        " recovery, stability, monitoring"
    )


def test_a_key_given_twice() -> None:
    assert mistake("training:", "  seed: 1", "  seed: 2") == "spec.yaml:8:3: training.seed: given twice; keep one"


def test_a_section_given_twice() -> None:
    assert mistake("lora: {rank: 4}", "lora: {alpha: 8}") == "spec.yaml:7:1: lora: given twice; keep one"


@pytest.mark.parametrize(
    ("lines", "place", "name"),
    [
        (["trust_remote_code: true"], "6:1", "trust_remote_code"),
        (
            ["training:", "  extra:", "    adam_beta2: 0.9", "lora: {trust_remote_code: true}"],
            "9:8",
            "lora.trust_remote_code",
        ),
    ],
)
def test_trust_remote_code_is_refused_wherever_it_stands(lines: list[str], place: str, name: str) -> None:
    assert mistake(*lines) == (
        f"spec.yaml:{place}: {name}: refused: muster never runs code that comes with a checkpoint."
        " Use a variant of the native architecture (qwen1.5, qwen2.5, qwen3) and remove this key"
    )


# Values


def test_a_value_of_the_wrong_type() -> None:
    assert mistake("training:", "  epochs: three") == (
        "spec.yaml:7:11: training.epochs: 'three' is not allowed;"
        " allowed: a number at least 1e-30 and at most 1e+30 (Passes over the training rows)"
    )


def test_true_is_not_a_number() -> None:
    assert mistake("training:", "  save_steps: true") == (
        "spec.yaml:7:15: training.save_steps: true is not allowed;"
        " allowed: a whole number above 0 and at most 1,000,000,000 (Optimizer steps between checkpoints)"
    )


def test_infinity_is_not_a_number_to_train_with() -> None:
    assert mistake("training:", "  learning_rate: .inf") == (
        "spec.yaml:7:18: training.learning_rate: inf is not allowed;"
        " allowed: a number at least 1e-30 and at most 1e+30 (Peak learning rate)"
    )


def test_a_value_out_of_bounds_gets_the_bounds() -> None:
    assert mistake("lora:", "  dropout: 1.0") == (
        "spec.yaml:7:12: lora.dropout: 1.0 is not allowed;"
        " allowed: a number at least 0 and below 1 (Dropout on the adapter's input)"
    )


def test_a_misspelt_value_gets_the_nearest_one() -> None:
    assert mistake("cluster:", "  strategy: zero_3") == (
        "spec.yaml:7:13: cluster.strategy: 'zero_3' is not allowed; allowed: auto or single, ddp, zero1, zero2, zero3,"
        " zero2_offload, zero3_offload, fsdp2 (How devices share the work; `auto` lets the planner choose)."
        " Did you mean 'zero3'?"
    )


def test_a_long_value_is_shortened() -> None:
    assert mistake("training:", f"  epochs: {'x' * 80}") == (
        f"spec.yaml:7:11: training.epochs: '{'x' * 56}... is not allowed;"
        " allowed: a number at least 1e-30 and at most 1e+30 (Passes over the training rows)"
    )


def test_a_value_in_place_of_a_section() -> None:
    assert mistake("training: fast") == "spec.yaml:6:11: training: 'fast' is not allowed; allowed: a section"


def test_a_name_that_cannot_name_a_directory() -> None:
    assert mistake(overrides=["name=../demo"]) == (
        "-s name=../demo: name: '../demo' is not allowed; allowed: text like ^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
        " (Names the run and its directory: letters, digits, dot, dash, underscore)"
    )


def test_a_section_without_values() -> None:
    assert mistake("training:") == "spec.yaml:6:10: training: null is not allowed; allowed: a section"


def test_what_is_missing() -> None:
    assert mistake_of("name: demo\n") == (
        "spec.yaml:1:1: data: is required: a section\nspec.yaml:1:1: model: is required: a section"
    )


def test_a_list_with_a_wrong_item_is_one_mistake() -> None:
    assert mistake("lora: {target_modules: [3]}").count("\n") == 0


def test_a_value_that_contradicts_its_tag_is_one_mistake() -> None:
    assert mistake("lora: {rank: !!int many}") == (
        "spec.yaml:6:14: lora.rank: 'many' cannot be read as tag:yaml.org,2002:int"
    )


@pytest.mark.parametrize("value", ["model.variant=''", "data.train=''"])
def test_an_empty_text_is_no_value(value: str) -> None:
    mistake(overrides=[value])


# Values that nothing reads, and contradictions


@pytest.mark.parametrize("key", ["eval_steps", "eval_samples", "early_stopping_patience"])
def test_evaluation_without_rows_to_evaluate_on(key: str) -> None:
    assert mistake("training:", f"  {key}: 5") == (
        f"spec.yaml:7:{5 + len(key)}: training.{key}: nothing reads this: there is no data.eval;"
        " set data.eval or remove it"
    )
    assert parse("training:", f"  {key}: 5", overrides=["data.eval=eval.jsonl"]).data.eval == "eval.jsonl"


def test_epochs_when_max_steps_ends_the_run() -> None:
    assert mistake("training:", "  epochs: 2", "  max_steps: 5") == (
        "spec.yaml:7:11: training.epochs: nothing reads this: training.max_steps = 5 ends the run;"
        " remove one of the two"
    )
    assert parse("training:", "  max_steps: 5").training.max_steps == 5


def test_kernels_of_an_attention_that_has_none() -> None:
    options = ["model.attention=eager", "model.flash_attention=fa3"]
    assert mistake(overrides=options) == (
        f"-s {options[1]}: model.flash_attention: nothing reads this with model.attention: eager, which has no kernel"
        " of its own; use sdpa or varlen"
    )
    assert parse(overrides=["model.flash_attention=fa3"]).model.flash_attention == "fa3"


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_double_quantisation_of_what_is_not_nf4(quantization: str) -> None:
    options = [f"model.quantization={quantization}", "model.double_quantization=false"]
    assert mistake(overrides=options) == (
        f"-s {options[1]}: model.double_quantization: nothing reads this with model.quantization: {quantization};"
        " it is nf4's"
    )
    assert parse(overrides=["model.quantization=nf4", options[1]]).model.double_quantization is False


def test_an_adapter_in_bf16_beside_a_run_in_fp16() -> None:
    assert mistake("lora: {precision: bf16}", "training: {precision: fp16}") == (
        "spec.yaml:6:19: lora.precision: bf16 beside training.precision: fp16, which is for hardware without bf16;"
        " use fp32 or auto"
    )


def test_spares_on_one_node() -> None:
    assert mistake("slurm: {spares: 1}") == (
        "spec.yaml:6:17: slurm.spares: nothing reads this with cluster.nodes = 1; remove it or ask for more nodes"
    )
    assert parse("slurm: {spares: 1}", "cluster: {nodes: 2}").slurm.spares == 1


def test_a_micro_batch_that_does_not_divide_the_global_batch() -> None:
    assert mistake("training: {micro_batch_size: 3, global_batch_size: 16}") == (
        "spec.yaml:6:30: training.micro_batch_size: 3 does not divide training.global_batch_size = 16;"
        " use 2, another divisor, or auto"
    )


def test_three_batch_sizes_that_contradict_one_another() -> None:
    batch = "micro_batch_size: 4, gradient_accumulation_steps: 3, global_batch_size: 16"
    assert mistake(f"training: {{{batch}}}") == (
        "spec.yaml:6:84: training.global_batch_size: contradicts the other two: micro_batch_size x"
        " gradient_accumulation_steps = 4 x 3 = 12 does not divide 16;"
        " give global_batch_size alone, or the other two alone"
    )


# TrainingArguments


def test_any_other_training_argument_may_be_given() -> None:
    extra = parse("training:", "  extra: {adam_beta2: 0.98, neftune_noise_alpha: 5}").training.extra
    assert extra == {"adam_beta2": 0.98, "neftune_noise_alpha": 5}


def test_an_unknown_training_argument() -> None:
    version = importlib.metadata.version("transformers")
    assert mistake("training:", "  extra:", "    adam_beta3: 0.9") == (
        f"spec.yaml:8:5: training.extra.adam_beta3: not a field of TrainingArguments in transformers {version}."
        " Did you mean 'adam_beta2'?"
    )


@pytest.mark.parametrize(
    ("name", "value", "owner"),
    [
        ("bf16", "true", "training.precision"),
        ("per_device_train_batch_size", "8", "training.micro_batch_size"),
        ("deepspeed", "ds.json", "cluster.strategy"),
        ("output_dir", "out", "--run-dir"),
        ("torch_compile", "true", "training.compile"),
        ("torch_compile_mode", "max-autotune", "training.compile"),
    ],
)
def test_a_training_argument_that_the_spec_decides(name: str, value: str, owner: str) -> None:
    assert mistake("training:", "  extra:", f"    {name}: {value}") == (
        f"spec.yaml:8:{7 + len(name)}: training.extra.{name}: cannot be set: it is decided by {owner}"
    )


def test_the_decided_arguments_are_fields_of_the_installed_class_or_of_another_version() -> None:
    earlier, later = (
        {"warmup_ratio", "group_by_length"},
        {"activation_checkpointing", "activation_checkpointing_kwargs"},
    )
    assert set(DECIDED_ELSEWHERE) - set(training_arguments()) <= earlier | later


def test_every_field_of_the_installed_training_arguments_is_refused_or_known_to_be_read() -> None:
    assert {name for name in training_arguments() if not refused(name)} == set(READ)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("run_name", "x", "nothing reads this without training.report_to"),
        ("report_to", "[tensorboard]", "cannot be set: it is decided by training.report_to"),
        (
            "project",
            "x",
            "nothing reads this: it is trackio's, and training.report_to takes tensorboard, mlflow and wandb",
        ),
        ("eval_delay", "5", "nothing reads this: there is no data.eval; set data.eval or remove it"),
        ("liger_kernel_config", "{rope: true}", "nothing reads this without training.extra.use_liger_kernel"),
        ("hub_model_id", "a/b", "nothing reads this: muster never uploads; after looking at the adapter: hf upload"),
        ("label_smoothing_factor", "0.1", "cannot be set: it is decided by the loss, a mean over the global batch"),
    ],
)
def test_a_training_argument_that_nothing_reads(name: str, value: str, message: str) -> None:
    assert mistake("training:", "  extra:", f"    {name}: {value}") == (
        f"spec.yaml:8:{7 + len(name)}: training.extra.{name}: {message}"
    )


def test_a_missing_value_hides_no_other_mistake() -> None:
    text = (
        "nmae: a\nmodel: {varient: qwen3-8b}\ndata: {train: [x]}\n"
        "training: {eval_steps: 4, epochs: 1, max_steps: 3, extra: {foo: 1}}\n"
    )
    told = [line.split(" ")[0] + " " + line.split(" ")[1] for line in mistake_of(text).splitlines()]
    assert told == [
        "spec.yaml:1:1: name:", "spec.yaml:1:1: nmae:", "spec.yaml:2:8: model.variant:",
        "spec.yaml:2:9: model.varient:", "spec.yaml:3:15: data.train:", "spec.yaml:4:24: training.eval_steps:",
        "spec.yaml:4:35: training.epochs:", "spec.yaml:4:60: training.extra.foo:",
    ]  # fmt: skip


def test_leakage_is_accepted_only_where_it_can_be() -> None:
    spec = "name: demo\nmodel: {variant: qwen3-8b}\ndata: {train: train.jsonl, accept: [leakage]}\n"
    assert mistake_of(spec).endswith(
        "data.accept: leakage: nothing reads this: there is no data.eval; set data.eval or remove it"
    )


def test_a_mistyped_file_in_a_folder_that_is_there_is_no_hub_id(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "spec.yaml").write_text("name: demo\nmodel: {variant: qwen3-8b}\ndata: {train: data/trian}\n")
    found = draft(tmp_path / "spec.yaml", [])
    assert found.spec is not None
    assert [str(mistake) for mistake in missing_data(found, found.spec)] == [
        f"{tmp_path}/spec.yaml:3:15: data.train: {tmp_path}/data/trian: no such data file;"
        " a relative path starts at the spec's folder"
    ]


def test_a_name_for_trackers_beside_trackers() -> None:
    assert parse("training:", "  report_to: [mlflow, wandb]", "  extra: {run_name: x}").training.report_to == [
        "mlflow", "wandb",
    ]  # fmt: skip
    assert mistake("training:", "  report_to: []", "  extra: {run_name: x}") == (
        "spec.yaml:8:21: training.extra.run_name: nothing reads this without training.report_to"
    )


def test_a_tracker_that_is_none_of_the_three() -> None:
    told = mistake("training:", "  report_to: [tensorbord]")
    assert told.startswith("spec.yaml:7:15: training.report_to.0: 'tensorbord' is not allowed; allowed: a list (")
    assert "`tensorboard`, `mlflow`, `wandb`" in told


@pytest.mark.parametrize(
    ("scheduler", "given", "message"),
    [
        ("constant", "num_cycles: 2", "nothing reads this: training.lr_scheduler constant takes none; remove it"),
        ("cosine", "cycles: 2", "nothing reads this: training.lr_scheduler cosine takes only num_cycles; remove it"),
        ("cosine", "num_cycles: no", "'no' is not allowed; expected a number from 1e-30 to 1e+30"),
    ],
)
def test_an_argument_that_the_schedule_cannot_use(scheduler: str, given: str, message: str) -> None:
    key = given.partition(":")[0]
    assert mistake(
        "training:", f"  lr_scheduler: {scheduler}", "  extra:", f"    lr_scheduler_kwargs: {{{given}}}"
    ) == (f"spec.yaml:9:{29 + len(key)}: training.extra.lr_scheduler_kwargs.{key}: {message}")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("adam_epsilon", "banana", "a number at least 1e-30 and at most 1e+30"),
        ("adam_beta1", "7", "a number at least 0 and below 1"),
        ("neftune_noise_alpha", "-5", "a number at least 1e-30 and at most 1e+30"),
        ("tf32", "maybe", "true or false"),
        ("lr_scheduler_kwargs", "3", "a section"),
        ("log_level", "banana", "detail, debug, info, warning, error, critical, passive"),
    ],
)
def test_a_value_that_a_training_argument_cannot_have(name: str, value: str, allowed: str) -> None:
    given = value if value.lstrip("-").isdigit() else repr(value)
    assert mistake("training:", "  extra:", f"    {name}: {value}") == (
        f"spec.yaml:8:{7 + len(name)}: training.extra.{name}: {given} is not allowed; allowed: {allowed}"
    )


@pytest.mark.parametrize("value", ["1e-300", "1e308", f"1{'0' * 400}"])
@pytest.mark.parametrize(
    "key",
    [
        "training.epochs", "training.max_steps", "training.learning_rate", "training.extra.adam_epsilon", "lora.rank",
        "training.global_batch_size", "cluster.nodes", "cluster.network_gbps", "recovery.hang_seconds",
        "preflight.allreduce_seconds", "stability.spike_deviations", "monitoring.sample_seconds",
    ],
)  # fmt: skip
def test_a_number_that_nothing_can_compute_with_is_refused_where_it_stands(key: str, value: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(BASE, "spec.yaml", [f"{key}={value}"])
    (found,) = error.value.mistakes
    assert found.message.startswith(f"{key}: {shown(float(value) if 'e' in value else int(value))} is not allowed")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12)),
         "too many values, with aliases (*) wherever they stand: at most 10,000 are read; is this the right file?"),
        (f"name: [{','.join(['1'] * 500_000)}]",
         "1,000,007 characters: at most 131,072 are read; is this the right file?"),
    ],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_a_file_that_would_take_hours_to_read(text: str, told: str) -> None:
    assert mistake_of(text) == f"spec.yaml:1:1: {told}"


def test_remote_code_in_extra_is_refused_with_the_reason() -> None:
    assert "muster never runs code that comes with a checkpoint" in mistake(
        "training:", "  extra:", "    trust_remote_code: true"
    )


@pytest.mark.parametrize("time", ["90", "10:00", "12:00:00", "1-12", "1-12:30", "1-12:30:00"])
def test_slurm_s_ways_to_write_a_time(time: str) -> None:
    assert parse(f'slurm: {{time: "{time}"}}').slurm.time == time


def test_what_is_no_time_to_slurm() -> None:
    assert mistake("slurm: {time: banana}").startswith("spec.yaml:6:15: slurm.time: 'banana' is not allowed")
    assert mistake("slurm: {time: 90}").startswith(
        'spec.yaml:6:15: slurm.time: 90 is not allowed; allowed: text such as "90", "12:00:00", "1-12" (Time limit'
    )


@pytest.mark.parametrize("name", ["disable_tqdm", "ddp_find_unused_parameters"])
def test_a_training_argument_that_the_trainer_sets(name: str) -> None:
    mistake("training:", "  extra:", f"    {name}: true")


# Secrets


def test_a_secret_in_the_spec() -> None:
    assert mistake("training:", "  report_to: [wandb]", "  extra: {run_name: hf_abcdefghijklmnopqrst}") == (
        f"spec.yaml:8:21: training.extra.run_name: {SECRET_MESSAGE}"
    )


def test_a_password_in_an_address() -> None:
    assert mistake(overrides=["data.train=https://me:word@host/rows.jsonl"]) == (
        f"-s data.train=https://me:word@host/rows.jsonl: data.train: {SECRET_MESSAGE}"
    )


# All at once


def test_several_mistakes_are_listed_in_the_order_of_their_places() -> None:
    text = "cluster: {nodes: 0}\nname: demo\nmodel: {variant: a, quantisation: nf4}\ndata: {train: 7}\nname: twice\n"
    assert mistake_of(text) == "\n".join(
        [
            "spec.yaml:1:18: cluster.nodes: 0 is not allowed;"
            " allowed: a whole number above 0 and at most 1,000,000,000 (Machines)",
            "spec.yaml:3:21: model.quantisation: unknown key. Did you mean 'quantization'?"
            " Allowed: variant, quantization, double_quantization, upcast_unquantized, attention, flash_attention,"
            " norms",
            "spec.yaml:4:15: data.train: 7 is not allowed;"
            " allowed: text (Training rows: a file, folder, glob or hub id (`owner/name:split`). "
            'Relative paths start at the spec\'s folder). As text it stands in quotes: "7"',
            "spec.yaml:5:1: name: given twice; keep one",
        ]
    )


def test_several_contradictions_are_listed_in_the_order_of_their_places() -> None:
    lines = ["slurm: {spares: 2}", "training:", "  eval_steps: 5", "  epochs: 2", "  max_steps: 9"]
    assert [line.split(": ")[1] for line in mistake(*lines).splitlines()] == [
        "slurm.spares",
        "training.eval_steps",
        "training.epochs",
    ]


def test_line_10_comes_after_line_9() -> None:
    lines = ["training:", "  epochs: 0", "  seed: x", "  max_grad_norm: 0", "  save_steps: 0"]
    assert [line.split(":")[1] for line in mistake(*lines).splitlines()] == ["7", "8", "9", "10"]


def test_a_misspelt_key_does_not_hide_a_dead_value() -> None:
    found = mistake("training:", "  epochz: 1", "  eval_steps: 5", "  extra: {adam_beta3: 1}")
    assert [line.split(": ")[1] for line in found.splitlines()] == [
        "training.epochz",
        "training.eval_steps",
        "training.extra.adam_beta3",
    ]


# Files that are no spec


@pytest.mark.parametrize("text", ["", "# to do\n"])
def test_an_empty_file(text: str) -> None:
    assert mistake_of(text) == "spec.yaml:1:1: is empty; a spec needs name, model.variant and data.train"


def test_a_list() -> None:
    assert mistake_of("- name: demo\n") == (
        "spec.yaml:1:1: is not a mapping; a spec is `key: value` lines, see `muster schema`"
    )


def test_a_list_that_is_not_closed() -> None:
    assert mistake_of("name: [demo\nmodel: x\n") == "spec.yaml:2:6: not YAML: expected ',' or ']', but got ':'"


def test_a_tab_in_the_indentation() -> None:
    assert mistake_of("model:\n\tvariant: x\n") == (
        "spec.yaml:2:1: not YAML: found character '\\t' that cannot start any token"
    )


def test_a_tag_that_would_run_code() -> None:
    assert mistake("slurm:", "  account: !!python/name:os.system x") == (
        "spec.yaml:7:12: slurm.account: 'x' cannot be read as tag:yaml.org,2002:python/name:os.system"
    )


def test_two_documents() -> None:
    assert mistake_of("name: a\n---\nname: b\n") == (
        "spec.yaml:2:1: not YAML: expected a single document in the stream, but found another document"
    )


def test_a_value_that_contains_itself() -> None:
    mistake("lora: &lora {rank: *lora}")


def test_no_such_file_names_the_specs_that_are_there(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError) as caught:
        read_spec(tmp_path / "c.yaml")
    assert str(caught.value) == f"{tmp_path}/c.yaml: no such spec file; specs in {tmp_path}: a.yml, b.yaml"


def test_no_such_file_in_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_spec(tmp_path / "x/c.yaml")
    assert str(caught.value) == f"{tmp_path}/x/c.yaml: no such spec file"


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_spec(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder; name the spec file in it"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError) as caught:
        read_spec(tmp_path / "spec.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/spec.yaml: cannot be read as UTF-8 text:"
        " 'utf-8' codec can't decode byte 0xff in position 6: invalid start byte"
    )


# The same training


def test_where_and_how_fast_a_run_goes_does_not_make_it_another() -> None:
    here = training_identity(spec_of())
    assert here == training_identity(spec_of(cluster={"nodes": 2}, slurm={"time": "1:00:00"}))
    assert here == training_identity(spec_of(training={"micro_batch_size": 1, "save_steps": 1, "eval_steps": 5}))


def test_who_computes_a_layer_does_not_make_it_another_what_the_base_and_the_adapter_hold_does() -> None:
    here = training_identity(spec_of(model={"quantization": "nf4"}))
    assert here == training_identity(spec_of(model={"quantization": "nf4", "attention": "eager", "norms": "fused"}))
    assert here == training_identity(spec_of(model={"quantization": "nf4", "flash_attention": "fa3"}))
    assert here == training_identity(spec_of(model={"quantization": "nf4"}, lora={"implementation": "fused"}))
    there = training_identity(
        spec_of(model={"quantization": "nf4", "double_quantization": False}, lora={"precision": "bf16"})
    )
    assert {key for key in here if here[key] != there[key]} == {"model.double_quantization", "lora.precision"}


def test_evaluations_that_choose_the_adapter_make_it_another() -> None:
    stopping = {"early_stopping_patience": 2}
    here, there = (training_identity(spec_of(training={**stopping, "eval_steps": steps})) for steps in (5, 6))
    assert {key for key in here if here[key] != there[key]} == {"training.eval_steps"}


def test_what_is_learnt_makes_it_another() -> None:
    here, there = training_identity(spec_of()), training_identity(spec_of(training={"seed": 1}, lora={"rank": 4}))
    assert {key for key in here if here[key] != there[key]} == {"training.seed", "lora.rank"}
    assert (there["training.seed"], there["lora.rank"]) == (1, 4)
    assert here["data.train"] == "/data/train.jsonl"


def test_a_dropped_key_hides_no_mistake_whose_words_hold_its_letters() -> None:
    found = mistake("e: 1", "training: {max_steps: 5, epochs: 2}")
    assert "e: unknown key" in found
    assert "training.epochs: nothing reads this" in found

"""What a spec's slurm section takes: values that stay on their line, and nothing that has another place."""

import json

import pytest

from launch.errors import SpecError
from launch.spec.file import parse_spec
from launch.spec.slurm import SlurmSpec, seconds_of


def parse(slurm: str) -> SlurmSpec:
    head = "name: demo\nmodel: {variant: qwen2.5-7b-instruct}\ndata: {train: t.jsonl}\n"
    return parse_spec(f"{head}slurm: {slurm}\n", "spec.yaml").slurm


def mistake(slurm: str) -> str:
    with pytest.raises(SpecError) as error:
        parse(slurm)
    assert len(error.value.mistakes) == 1
    return str(error.value)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("10:00", 600), ("12:00:00", 43200), ("1-12", 129600), ("1-12:30", 131400), ("1-12:30:15", 131415)],
)
def test_slurm_s_ways_to_write_a_time_in_seconds(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("key", ["partition", "account", "qos", "reservation", "constraint", "gres", "gpu_type"])
@pytest.mark.parametrize("value", ["a b", "a\\n#SBATCH --uid=0", "a'", 'a\\"', "a#b", "a\\\\b", ""])
def test_a_value_of_an_sbatch_line_is_one_word(key: str, value: str) -> None:
    told = mistake(f'{{{key}: "{value}"}}')
    assert told.startswith(f"spec.yaml:4:{11 + len(key)}: slurm.{key}: ")
    assert "allowed: one word without spaces, quotes, # or \\" in told


@pytest.mark.parametrize(
    ("slurm", "told"),
    [
        ("{time: 90}", '4:15: slurm.time: 90 is not allowed; allowed: text such as "90", "12:00:00", "1-12" (Time'),
        ("{mem: 0}", '4:14: slurm.mem: 0 is not allowed; allowed: auto or text such as "400G" or "0" (Host'),
        ("{exclude: [7]}", "4:19: slurm.exclude.0: 7 is not allowed; allowed: a list, each one word"),
        ("{environment: {RATE: 1.5}}", "4:29: slurm.environment.RATE: 1.5 is not allowed; allowed: text or a whole"),
        ("{environment: {SURE: true}}", "4:29: slurm.environment.SURE: true is not allowed; allowed: text or a whole"),
    ],
)  # fmt: skip
def test_a_number_that_is_meant_as_text_is_told_how_it_is_written_so(slurm: str, told: str) -> None:
    found = mistake(slurm)
    assert found.startswith(f"spec.yaml:{told}")
    given = slurm.strip("{}[]").rpartition(" ")[2].strip("[]")
    assert found.endswith(f'. As text it stands in quotes: "{given}"')
    assert parse(slurm.replace(given, f'"{given}"'))


def test_what_no_quotes_would_make_text_that_is_taken() -> None:
    assert "quotes:" not in mistake("{mem: 0.5}")
    assert "quotes:" not in mistake("{environment: {A: [x]}}")


def test_a_constraint_may_say_and_and_or() -> None:
    assert parse("{constraint: 'a100&[rack1|rack2]'}").constraint == "a100&[rack1|rack2]"


def test_the_name_of_a_variable_is_one() -> None:
    assert "slurm.environment" in mistake("{environment: {'A=B; rm': x}}")
    assert parse("{environment: {NCCL_IB_HCA: mlx5, NCCL_IB_DISABLE: 1}}").environment == {
        "NCCL_IB_HCA": "mlx5",
        "NCCL_IB_DISABLE": 1,
    }


def test_an_option_has_no_second_line() -> None:
    assert "each an option of sbatch such as --mail-type=END" in mistake(
        '{extra: ["--mail-type=END\\n#SBATCH --uid=0"]}'
    )
    fine = ["--mail-type=END", '--comment="a --nodes=3 b"', "--mem-per-gpu=4G", "--exclusive --nice -5", "--comment='"]
    assert parse(f"{{extra: {json.dumps(fine)}}}").extra == fine


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--nodes=3", "--nodes is not for extra: say it with cluster.nodes and slurm.spares; remove it"),
        ("-N 3", "--nodes is not for extra: say it with cluster.nodes and slurm.spares; remove it"),
        ("-t10", "--time is not for extra: say it with slurm.time; remove it"),
        ("--signal=B:TERM@5", "--signal is not for extra: say it with slurm.grace_seconds; remove it"),
        (
            "--mail-type=END --nodes=3",
            "--nodes is not for extra: say it with cluster.nodes and slurm.spares; remove it",
        ),
        ("--sig=B:TERM@5", "--signal is not for extra: say it with slurm.grace_seconds; remove it"),
        ("--open-mode truncate", "--open-mode is not for extra: muster says it; remove it"),
    ],
)
def test_an_option_that_has_another_place(option: str, told: str) -> None:
    assert mistake(f"{{extra: ['{option}']}}") == f"spec.yaml:4:17: slurm.extra.0: {told}"


def test_a_grace_that_is_longer_than_the_job() -> None:
    assert mistake("{time: '2', grace_seconds: 120}") == (
        "spec.yaml:4:35: slurm.grace_seconds: 120 s before the end of a job of 120 s is before it began; lower it"
    )

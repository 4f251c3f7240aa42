"""Failures of what a run is given, and of what it computes: models, data, numbers."""

from launch.diagnosis.known.failure import Known, raised
from launch.errors import ExitCode

INPUTS = (
    Known(
        name="safetensors",
        code=ExitCode.HOST,
        patterns=(raised("SafetensorError", "UnpicklingError"), r"Error while deserializing header",
                  r"PytorchStreamReader failed", r"Unable to load weights from pytorch checkpoint file"),
        cause="a file of weights is cut short or is something else, such as the text of a Git LFS pointer",
        fix="compare its size with the model's page and download it again; muster preflight checks every shard",
        source="safetensors; torch.load",
    ),
    Known(
        name="gated-repository",
        code=ExitCode.WORKER,
        patterns=(raised("GatedRepoError"), r"Cannot access gated repo for url",
                  r"You are trying to access a gated repo",
                  r"(?:401|403) Client Error.*huggingface\.co", r"Access to model .* is restricted"),
        cause="the hub does not let this account download the model",
        fix="ask for access on the model's page, then set HF_TOKEN; or use a local copy (model.variant: PATH)",
        source="huggingface_hub",
    ),
    Known(
        name="no-such-repository",
        code=ExitCode.WORKER,
        patterns=(raised("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"),
                  r"is not a local folder and is not a valid model identifier"),
        cause="the hub has no model or file of this name",
        fix="correct model.variant; a local folder must exist on every node",
        source="huggingface_hub; transformers",
    ),
    Known(
        name="hub-busy",
        code=ExitCode.WORKER,
        patterns=(r"429 Client Error", r"\bToo Many Requests for url"),
        cause="the hub was asked too often from this address and refuses more for a while",
        fix=(
            "wait some minutes and start again, with HF_TOKEN set (an account is allowed more); better download the"
            " model once to storage that the nodes share, and set model.variant to that folder"
        ),
        source="huggingface_hub",
        another_try=True,
    ),
    Known(
        name="hub-unreachable",
        code=ExitCode.WORKER,
        patterns=(r"We couldn't connect to 'https://huggingface\.co'",
                  raised("LocalEntryNotFoundError", "OfflineModeIsEnabled"),
                  r"HTTPSConnectionPool\(host='(?:[\w.-]+\.)?(?:huggingface\.co|hf\.co)'",
                  r"50\d Server Error.*huggingface\.co"),
        cause="the model is not on this machine and the hub cannot be reached from it",
        fix=(
            "download it where there is a network (huggingface-cli download) to storage that the nodes share, and set"
            " model.variant to that folder"
        ),
        source="huggingface_hub; transformers",
        another_try=True,
    ),
    Known(
        name="shape-mismatch",
        code=ExitCode.WORKER,
        patterns=(r"size mismatch for [\w.]+: copying a param with shape",
                  raised("RuntimeError", saying=r"'weight' must be 2-D"),
                  raised("RuntimeError", saying=r"mat1 and mat2 shapes cannot be multiplied"),
                  raised("RuntimeError", saying=r"The size of tensor a \(\d+\) must match the size of tensor b"),
                  raised("RuntimeError", "ValueError", saying=r"shape mismatch"),
                  raised("ValueError", saying=r"Trying to set a tensor of shape .* this looks incorrect")),
        cause="weights do not have the shape that the model asks for: another model's, or a shard saved as a whole",
        fix=(
            "use the base that the checkpoint or adapter was trained on; with [0] or [1] in the message it was saved"
            " from ZeRO-3 or FSDP without gathering: go back to an earlier checkpoint"
        ),
        source="torch.nn.Module.load_state_dict",
    ),
    Known(
        name="newer-model",
        code=ExitCode.WORKER,
        patterns=(r"Tokenizer class \w+ does not exist or is not currently imported",
                  r"data did not match any variant of untagged enum \w+",
                  r"Transformers does not recognize this architecture", r"^KeyError: 'qwen[\w-]*'"),
        cause="the installed transformers, or tokenizers, is older than the model and cannot read it",
        fix="install the version of both that muster is pinned to, or the one that the model's config.json names",
        source="transformers; tokenizers",
    ),
    Known(
        name="no-chat-template",
        code=ExitCode.WORKER,
        patterns=(r"tokenizer\.chat_template is not set", r"does not have a chat template"),
        cause="the tokenizer has no chat template: it is a base model's, or its files are not all there",
        fix="use the instruct model of this size, or put its chat_template.jinja and tokenizer_config.json beside it",
        source="transformers, tokenization_utils_base.py",
    ),
    Known(
        name="dataset",
        code=ExitCode.DATA,
        patterns=(raised("DatasetGenerationError", "DatasetGenerationCastError", "DataFilesNotFoundError", "DataError"),
                  raised("ArrowInvalid", "ArrowTypeError", "JSONDecodeError", "UnicodeDecodeError"),
                  r"Not able to read records in the JSON file", raised("TemplateError"),
                  raised("ValueError", saying="Unable to create tensor, you should probably activate truncation")),
        cause="the data cannot be read as rows of one shape",
        fix="muster data validate names every row that is wrong, with its line",
        source="datasets; pyarrow; json",
    ),
    Known(
        name="missing-file",
        code=ExitCode.WORKER,
        patterns=(raised("FileNotFoundError"), r"^ValueError: File .* not found",
                  r"\[Errno 2\] No such file or directory",
                  raised("OSError", saying=r"Error no file named .* found in"),
                  r"(?:slurmstepd|srun): error: execve\(\): .*: No such file or directory"),
        cause="a file that the run needs is not there, at least not on this node",
        fix="correct the path; relative paths start where the command was given; use storage that every node mounts",
        source="Python",
    ),
)  # fmt: skip

NUMBERS = (
    Known(
        name="loss-scale",
        code=ExitCode.NUMERICAL,
        patterns=(r"Current loss scale already at minimum",),
        cause="fp16 overflowed at every loss scale: gradients are no longer finite",
        fix="train in bf16 (training.precision: bf16) where the GPU has it; Qwen models overflow in fp16",
        source="DeepSpeed, runtime/fp16/loss_scaler.py",
    ),
    Known(
        name="broken-model",
        code=ExitCode.NUMERICAL,
        patterns=(r"the loaded model gives (?:logits that are not finite|the same logits)",),
        cause="the base model computes nothing that makes sense, before it has been trained at all",
        fix=(
            "download its files again and compare their sizes with the model's page; train in bf16 if it is fp16 now:"
            " Qwen models overflow in fp16"
        ),
        source="muster's check of the loaded model",
    ),
    Known(
        name="loss-spike",
        code=ExitCode.NUMERICAL,
        patterns=(raised("NumericalError", saying=r"its loss of \S+ is above "),),
        cause="the loss rose far above that of the steps before it, whatever the stability guard tried",
        fix=(
            "lower training.learning_rate, and look at the rows that were left out (`skipped` in events.jsonl names"
            " them); start a run of another name, or --resume never"
        ),
        source="muster's stability guard",
    ),
    Known(
        name="not-finite",
        code=ExitCode.NUMERICAL,
        patterns=(r"the (?:loss|gradient norm) of step \d+ is (?:nan|inf)",
                  r"total norm of order .* is non-finite", r"'(?:loss|grad_norm)': '?(?:nan|inf)\b",
                  r"Function '\w+' returned nan values",
                  r"\bloss(?:=|: | = | is )(?:nan|inf)\b",
                  raised("NumericalError", saying=r"(?:\b(?:nan|inf)\b|not finite)"),
                  r"probability tensor contains either `inf`, `nan`"),
        cause="the loss or the gradients are no longer finite numbers",
        fix=(
            "lower training.learning_rate, train in bf16 if it is fp16 now, and look at the samples of that step"
            " (samples.jsonl); a checkpoint, where there is one, is from before it"
        ),
        source="the training loop; torch.nn.utils.clip_grad",
    ),
    Known(
        name="arithmetic",
        code=ExitCode.NUMERICAL,
        patterns=(raised("FloatingPointError"),),
        cause="a number left the range of its type",
        fix="",
        source="Python; numpy",
    ),
)  # fmt: skip

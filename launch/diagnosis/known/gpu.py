"""Failures of GPUs: their memory, their driver, the hardware, the kernels that run on them."""

from launch.diagnosis.known.failure import Known, raised
from launch.errors import ExitCode

SMALLER = (
    "Use a smaller training.micro_batch_size with training.global_batch_size kept,"
    " training.gradient_checkpointing: true, or model.quantization: nf4"
)
_REPAIR = "drain the node and have an administrator reset the GPU (nvidia-smi -r) or replace it; start elsewhere"

MEMORY = (
    Known(
        name="gpu-memory-taken",
        code=ExitCode.GPU_MEMORY,
        # Only with a further process in use does torch name processes; this one's own part is "this process has".
        patterns=(r"CUDA out of memory\..*(?<!this )[Pp]rocess \d+ has .* memory in use.*this process has",),
        cause="too little of this GPU's memory was left beside another process's",
        fix="end the other process (nvidia-smi shows it), or run on a GPU of your own (sbatch --exclusive)",
        source="torch, c10/cuda/CUDACachingAllocator.cpp",
        another_try=True,
    ),
    Known(
        name="gpu-memory",
        code=ExitCode.GPU_MEMORY,
        patterns=(
            raised("OutOfMemoryError"), r"(?i:cuda out of memory)", r"CUDA error: out of memory",
            r"CUBLAS_STATUS_ALLOC_FAILED", r"CUDA driver error: out of memory",
            r"^Error out of memory at line \d+ in file",  # bitsandbytes ends its process with it
        ),
        cause="the GPU's memory was used up",
        fix=SMALLER,
        source="torch, c10/cuda/CUDACachingAllocator.cpp; the driver; cuBLAS",
        fixes={
            "loading": "Use model.quantization: nf4, or a strategy that shards the base: cluster.strategy: zero3",
            "optimizer step": (
                "Use training.optimizer: paged_adamw_32bit or adamw_8bit, a smaller lora.rank, or cluster.strategy:"
                " zero2 to share the optimizer's state among the ranks"
            ),
            "evaluation": (
                "Use a smaller data.max_length or training.micro_batch_size (evaluation takes the same), or fewer"
                " training.eval_samples"
            ),
        },
    ),
)  # fmt: skip

HARDWARE = (
    Known(
        name="xid",
        code=ExitCode.WORKER,
        # Those that need a reset, a restart or a repair (NVIDIA, Xid Errors); preflight's check `xid` has the same.
        patterns=(r"NVRM: Xid \(PCI:[0-9a-fA-F:.]+\): (?:48|62|63|64|74|79|92|94|95|119|120|140)\b",
                  r"NVRM: .*fallen off the bus"),
        cause="the NVIDIA driver reported an error of the GPU itself",
        fix=f"{_REPAIR}; NVIDIA's page of Xid errors says what the number means",
        source="the NVIDIA driver, in the kernel's log",
    ),
    Known(
        name="ecc",
        code=ExitCode.WORKER,
        patterns=(r"uncorrectable ECC error encountered", r"CUDA_ERROR_ECC_UNCORRECTABLE"),
        cause="the GPU's memory has an error that its error correction cannot mend",
        fix=f"{_REPAIR}; muster preflight shows its counters",
        source="the CUDA driver",
    ),
    Known(
        name="nvlink",
        code=ExitCode.WORKER,
        patterns=(r"uncorrectable NVLink error", r"CUDA_ERROR_NVLINK_UNCORRECTABLE"),
        cause="the link between two GPUs (NVLink) lost data",
        fix=f"nvidia-smi nvlink -e shows each link's errors; {_REPAIR}",
        source="the CUDA driver",
    ),
    Known(
        name="fabric-manager",
        code=ExitCode.WORKER,
        # As a warning torch prints it and goes on without a GPU; what ends the run is then another line.
        patterns=(raised("RuntimeError", "AssertionError", saying=r"system not yet initialized"),
                  r"CUDA error: system not yet initialized", r"CUDA_ERROR_SYSTEM_NOT_READY"),
        cause="the driver has not set up the links between this node's GPUs: its fabric manager does not run",
        fix=(
            "have an administrator start it (systemctl status nvidia-fabricmanager), in the very version of the"
            " driver; start elsewhere until then"
        ),
        source="the CUDA runtime, error 802",
    ),
    Known(
        name="gpu-lost",
        code=ExitCode.WORKER,
        patterns=(r"CUDA error: unspecified launch failure", r"CUDA error: the launch timed out",
                  r"CUDA error: device unavailable", r"CUDA-capable devices?(?:\(s\))? (?:is/)?are busy or unavailable",
                  r"GPU is lost", r"Unable to determine the device handle for (?:GPU|gpu)"),
        cause="the GPU stopped answering, or is not ours to use",
        fix="see dmesg | grep -i xid on that node; nvidia-smi -q shows compute mode and errors; start on another GPU",
        source="the CUDA driver",
        another_try=True,
    ),
    Known(
        name="no-gpu",
        code=ExitCode.WORKER,
        # As a warning torch prints some of them and goes on without a GPU.
        patterns=(raised("RuntimeError", "AssertionError", "AcceleratorError",
                         saying=r"(?:No CUDA GPUs are available|no CUDA-capable device is detected"
                         r"|invalid device ordinal|Found no NVIDIA driver on your system|CUDA unknown error"
                         r"|Torch not compiled with CUDA enabled|CUDA is required but not available)"),),
        cause="this process sees no GPU, or fewer than it was to use",
        fix=(
            "see that nvidia-smi lists them on that node, that the job was given as many (sbatch --gpus-per-node;"
            " docker --gpus all), that CUDA_VISIBLE_DEVICES hides none, and that torch is a build for CUDA"
        ),
        source="torch, torch/cuda/__init__.py; the CUDA runtime; bitsandbytes",
    ),
)  # fmt: skip

SOFTWARE = (
    Known(
        name="token-out-of-vocabulary",
        code=ExitCode.WORKER,
        patterns=(r"Assertion `srcIndex < srcSelectDimSize` failed", r"^IndexError: index out of range in self"),
        cause="a token id is beyond the model's embeddings: tokenizer and model do not belong together",
        fix=(
            "use the tokenizer that came with the model (model.variant), or a model whose vocabulary was enlarged for"
            " it; muster preflight loads both and compares them"
        ),
        source="torch, aten/native/cuda/Indexing.cu",
    ),
    Known(
        name="device-assert",
        code=ExitCode.WORKER,
        patterns=(r"CUDA error: device-side assert triggered", r"\.cu:\d+: .*: block: \[.*Assertion `.*` failed"),
        cause="a kernel was given an index or a label that is out of range",
        fix="set CUDA_LAUNCH_BLOCKING=1 and start again: the traceback then names the operation; check labels and ids",
        source="torch, aten/native/cuda",
    ),
    Known(
        name="illegal-memory-access",
        code=ExitCode.WORKER,
        patterns=(r"an illegal memory access was encountered", r"CUDA error: misaligned address",
                  r"CUDA error: an illegal instruction was encountered"),
        cause="a kernel read or wrote memory that is not its own: a bug in a kernel, or a broken GPU",
        fix=(
            "start again on another GPU; if it comes back, set CUDA_LAUNCH_BLOCKING=1 to see the operation, and try"
            " without custom kernels (attention implementation, quantization)"
        ),
        source="the CUDA driver",
        another_try=True,
    ),
    Known(
        name="driver-too-old",
        code=ExitCode.WORKER,
        # As a warning torch prints it and goes on without a GPU; what ends the run is then another line.
        patterns=(raised("RuntimeError", "AssertionError", saying=r"driver on your system is too old"),
                  r"CUDA driver version is insufficient for CUDA runtime version",
                  r"Driver/library version mismatch", r"provided PTX was compiled with an unsupported toolchain",
                  r"system has unsupported display driver / cuda driver combination",
                  r"forward compatibility was attempted on non supported HW"),
        cause="the NVIDIA driver of the node is older than the CUDA that torch was built with",
        fix="have the driver updated, or install a torch built for an older CUDA; muster preflight names both versions",
        source="torch, torch/cuda/__init__.py; the CUDA runtime",
    ),
    Known(
        name="no-kernel-image",
        code=ExitCode.WORKER,
        patterns=(r"no kernel image is available for execution on the device", r"device kernel image is invalid",
                  r"FlashAttention only supports \w+ GPUs or newer",
                  r"Value 'sm_\w+' is not defined for option 'gpu-name'"),
        cause="a library was not built for this generation of GPU",
        fix="install a torch (and flash-attn, bitsandbytes) whose build lists the GPU's compute capability",
        source="the CUDA runtime; flash-attn; Triton's ptxas",
    ),
    Known(
        name="kernel-too-large",
        code=ExitCode.WORKER,
        patterns=(r"OutOfResources: out of resource: (?:shared memory|registers|tensor memory|threads)",),
        cause="a Triton kernel asks for more of a GPU's on-chip memory or registers than this GPU has",
        fix=(
            "use a version of the kernel's package (flash-linear-attention, Liger) that knows this GPU, or do without"
            " it; fewer rows in a batch do not help"
        ),
        source="Triton",
    ),
    Known(
        name="cublas",
        code=ExitCode.WORKER,
        patterns=(r"CUBLAS_STATUS_(?:NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR)",),
        cause="cuBLAS could not start or run: most often the GPU has no memory left, or an earlier kernel broke it",
        fix=f"look for an earlier CUDA error in this log; without one: {SMALLER[0].lower()}{SMALLER[1:]}",
        source="cuBLAS",
        another_try=True,
    ),
    Known(
        name="cudnn",
        code=ExitCode.WORKER,
        patterns=(r"CUDNN_STATUS_\w+",),
        cause="cuDNN could not start or run: too little memory, or a version that does not fit torch's",
        fix="take LD_LIBRARY_PATH out of the environment, so that torch's own cuDNN is loaded; else see nvidia-smi",
        source="cuDNN",
    ),
)  # fmt: skip

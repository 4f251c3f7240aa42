"""Failures of what is installed: packages that are missing, do not fit, or cannot be built."""

from launch.diagnosis.known.failure import Known, raised
from launch.errors import ExitCode

# transformers imports its parts when they are first used, and tells of a ModuleNotFoundError, RuntimeError or
# AttributeError that ends that only so; the error itself stands behind it (_LazyModule in utils/import_utils.py).
HIDES = "Could not import module '"

SOFTWARE = (
    Known(
        name="op-build",
        code=ExitCode.WORKER,
        patterns=(r"Error building extension '[\w-]+'", r"Unable to JIT load the [\w-]+ op",
                  r"CUDA_HOME does not exist, unable to compile CUDA op", r"^ninja: build stopped",
                  r"Ninja is required to load C\+\+ extensions", r"CUDA_HOME environment variable is not set",
                  r"'DeepSpeedCPUAdam' object has no attribute 'ds_opt_adam'",
                  r"/torch_extensions/\S+\.so: cannot open shared object file",
                  raised("CUDAMismatchException", "MissingCUDAException"),
                  raised("Exception", saying="DeepSpeed Op Builder: Installed CUDA version")),
        cause="DeepSpeed could not compile an operation that it builds on first use",
        fix=(
            "read the compiler's message above it; use an nvcc of torch's CUDA version (CUDA_HOME) and ninja, clear"
            " ~/.cache/torch_extensions, or avoid the op (no optimizer offload)"
        ),
        source="DeepSpeed's op_builder, torch.utils.cpp_extension",
    ),
    Known(
        name="no-compiler",
        code=ExitCode.WORKER,
        patterns=(r"(?<!['\"])Failed to find C compiler", raised("InvalidCxxCompiler"),
                  r"No working C\+\+ compiler found"),
        cause="a kernel is compiled on first use, and this node has no C compiler",
        fix="install gcc on every node, or load its module, and set CC to it; or do without torch.compile",
        source="Triton; torch._inductor",
    ),
    Known(
        name="bitsandbytes",
        code=ExitCode.WORKER,
        patterns=(r"libbitsandbytes_\w+\.so: (?:cannot open shared object file|undefined symbol)",
                  r"'NoneType' object has no attribute 'c(?:de)?quantize_",
                  r"CUDA Setup failed despite (?:GPU|CUDA) being",
                  r"Could not load bitsandbytes native library",
                  r"Attempted to use bitsandbytes native library functionality but it's not available",
                  r"Configured \w+ binary not found at .*bitsandbytes"),
        cause="bitsandbytes has no library for this CUDA version",
        fix="install a bitsandbytes that has one (python -m bitsandbytes tells), and unset BNB_CUDA_VERSION",
        source="bitsandbytes, cextension.py",
    ),
    Known(
        name="wheel-mismatch",
        code=ExitCode.WORKER,
        patterns=(r"undefined symbol: \w+", r"version `(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found",
                  raised("ImportError", saying=r"numpy\.core\.\w+ failed to import"),
                  raised("ImportError", "RuntimeError", saying=r"compiled using NumPy 1\.x cannot be run"),
                  r"numpy\.dtype size changed, may indicate binary incompatibility",
                  raised("ImportError", "OSError", saying=r"lib(?:cu|nv|nccl|torch|c10)[\w.-]*\.so[\d.]*: cannot open"),
                  r"operator torchvision::\w+ does not exist"),
        cause="a package was built for another torch or NumPy, or for a newer C library than this node has",
        fix="install the build of that package for this torch, NumPy, CUDA and Python, or build it here from source",
        source="the dynamic linker; NumPy",
    ),
    Known(
        name="missing-module",
        code=ExitCode.WORKER,
        patterns=(raised("ModuleNotFoundError"), raised("ImportError")),
        cause="a Python package is missing, or has not what is asked of it",
        fix="activate the environment that muster is installed in, on every node; pip show NAME compares versions",
        source="Python's import",
    ),
)  # fmt: skip

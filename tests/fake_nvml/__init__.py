"""A libnvidia-ml.so.1 that answers from a scenario file, for machines without a GPU. See README.md.

    environment(cache, "h100x8")                                     # a file of scenarios/
    environment(cache, "h100x8", {"gpu.3.ecc.uncorrected": 2})       # with lines of its own after it
    environment(cache, "include t4x1.scenario\\ngpu.0.temperature = 95\\n")

Each gives the variables that make a child process load the library. They must be there when the child starts.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCENARIOS = HERE / "scenarios"
LIBRARY = "libnvidia-ml.so.1"
FLAGS = ["-std=c11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread"]


class FakeNvmlError(Exception):
    """The library cannot be built, or a scenario has a mistake."""


def names() -> list[str]:
    """The scenarios that are shipped."""
    return sorted(path.stem for path in SCENARIOS.glob("*.scenario"))


def environment(
    cache: Path,
    scenario: str,
    overrides: Mapping[str, object] | None = None,
    inherited: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """LD_LIBRARY_PATH and FAKE_NVML_SCENARIO for a child process. `scenario` is a name or, with a line end, a text.

    Raises FakeNvmlError for a mistake in the scenario and where there is no C compiler.
    """
    path = _file(cache, scenario, overrides or {})
    folder = library(cache, _missing(library(cache), path)).parent
    paths = [str(folder), *filter(None, [inherited.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(paths), "FAKE_NVML_SCENARIO": str(path)}


def library(cache: Path, missing: Sequence[str] = ()) -> Path:
    """The library, built at most once for a cache, a source and a list of functions that it must not have."""
    sources = sorted(HERE.glob("*.[ch]"))
    identity = hashlib.sha256(repr([FLAGS, sorted(missing)]).encode())
    for source in sources:
        identity.update(source.read_bytes())
    folder = cache / f"fake-nvml-{identity.hexdigest()[:16]}"
    if not (folder / LIBRARY).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _compile([source for source in sources if source.suffix == ".c"], Path(scratch), missing)
            _publish(Path(scratch) / "built", folder)
    return folder / LIBRARY


def _compile(sources: Sequence[Path], scratch: Path, missing: Sequence[str]) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise FakeNvmlError("the fake NVML needs a C compiler: install gcc (apt install gcc), or name one in CC")
    built = scratch / "built"
    built.mkdir()
    # ctypes finds a function by its name, so one that the linker does not export is one that an old driver lacks.
    hidden = "".join(f" {name};" for name in missing)
    exports = scratch / "exports"
    exports.write_text(f"{{ global: nvml*; fake_nvml_*; local:{hidden} *; }};\n")
    command = [compiler, *FLAGS, f"-Wl,--version-script={exports}", "-o", built / LIBRARY, *sources, "-ldl"]
    # A compiler that is killed leaves its own files behind: they go with ours.
    scratched = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(command, env=scratched, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FakeNvmlError(f"the fake NVML cannot be compiled:\n{done.stderr}")


def _publish(built: Path, folder: Path) -> None:
    """Renaming is atomic; where another process was first, its result is as good."""
    try:
        built.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _file(cache: Path, scenario: str, overrides: Mapping[str, object]) -> Path:
    if "\n" not in scenario:
        path = SCENARIOS / f"{scenario}.scenario"
        if not path.is_file():
            raise FakeNvmlError(f"no scenario {scenario!r}; there are {', '.join(names())}")
        if not overrides:
            return path
        scenario = f"include {path.name}\n"
    text = re.sub(r"^include +(?!/)", f"include {SCENARIOS}/", scenario, flags=re.MULTILINE)
    text += "".join(f"{key} = {value}\n" for key, value in overrides.items())
    written = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.scenario"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        file = Path(scratch) / written.name
        file.write_text(text)
        file.replace(written)
    return written


def _missing(whole: Path, scenario: Path) -> list[str]:
    """What `missing` of a scenario says. The library reads the file itself: there is no second parser."""
    loaded = ctypes.CDLL(str(whole))
    answer = ctypes.create_string_buffer(8192)
    if loaded.fake_nvml_read(str(scenario).encode(), answer, ctypes.c_size_t(len(answer))):
        raise FakeNvmlError(answer.value.decode())
    missing = answer.value.decode().split()
    unknown = [name for name in missing if not (name.startswith("nvml") and hasattr(loaded, name))]
    if unknown:
        raise FakeNvmlError(f"{scenario}: missing names no function of the library: {', '.join(unknown)}")
    return missing

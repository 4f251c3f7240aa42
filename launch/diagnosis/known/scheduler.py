"""Ends that come from outside: the scheduler, a signal, a person; and what launchers report of their workers."""

from launch.diagnosis.known.failure import Known, raised, task_ended
from launch.errors import ExitCode


def _cancelled(why: str) -> str:
    return rf"\*\*\* (?:JOB|STEP) [\d._]+ ON (?P<node>[\w.-]+) CANCELLED AT \S+ DUE TO {why}"


SCHEDULER = (
    Known(
        name="time-limit",
        code=ExitCode.STOPPED,
        patterns=(_cancelled("TIME LIMIT"), r"JobState=TIMEOUT"),
        cause="the job's time was up",
        fix="submit it again: it goes on from its newest checkpoint; slurm.time asks for more",
        source="slurmstepd",
        another_try=True,
    ),
    Known(
        name="preemption",
        code=ExitCode.STOPPED,
        patterns=(_cancelled("(?:PREEMPTION|JOB REQUEUE)"),
                  r"JobState=PREEMPTED"),
        cause="the scheduler took the nodes back for another job",
        fix="submit it again, or with --requeue: it goes on from its newest checkpoint",
        source="slurmstepd",
        another_try=True,
    ),
    Known(
        name="node-failure",
        code=ExitCode.WORKER,
        patterns=(_cancelled("NODE FAILURE"),
                  r"srun: error: Node failure on (?P<node2>[\w.-]+)", r"JobState=NODE_FAIL"),
        cause="a node of the job failed or no longer answers",
        fix="leave it out (sbatch --exclude NODE) and submit again: the run goes on from its newest checkpoint",
        source="slurmstepd; srun",
        another_try=True,
    ),
    Known(
        name="cancelled",
        code=ExitCode.STOPPED,
        patterns=(r"\*\*\* JOB [\d._]+ ON (?P<node>[\w.-]+) CANCELLED AT \S+(?: \*\*\*)", r"JobState=CANCELLED"),
        cause="somebody cancelled the job (scancel)",
        fix="submit it again: it goes on from its newest checkpoint",
        source="slurmstepd",
        standing="death",
        another_try=True,
    ),
    Known(
        name="interrupted",
        code=ExitCode.STOPPED,
        patterns=(raised("KeyboardInterrupt"), r"Received (?:2|Signals\.SIGINT) death signal"),
        cause="somebody pressed Ctrl-C",
        fix="",
        source="Python",
        standing="death",
        another_try=True,
    ),
)  # fmt: skip

EXCEPTIONS = (
    Known(
        name="exception",
        code=ExitCode.WORKER,
        patterns=(raised(r"(?!Child)\w*(?:Error|Exception|Timeout|Exit)"),),
        cause="a Python exception ended the worker",
        fix="",
        source="Python",
    ),
)

SIGNALS = (
    Known(
        name="segfault",
        code=ExitCode.WORKER,
        patterns=(r"Fatal Python error: Segmentation fault", r"Signal 11 \(SIGSEGV\)",
                  r"Segmentation fault +\(core", r"\[\d+\]: segfault at [0-9a-f]+ ip",
                  r"terminated with signal SIGSEGV",
                  r"exitcode\s*: -11\b", task_ended(r"Segmentation fault")),
        cause="a compiled library read memory that is not its own",
        fix=(
            "set PYTHONFAULTHANDLER=1 and start again: the Python stack names the library; most often one that was"
            " built for another torch or CUDA"
        ),
        source="the kernel's signal 11",
        another_try=True,
    ),
    Known(
        name="killed",
        code=ExitCode.WORKER,
        patterns=(r"Signal 9 \(SIGKILL\)", r"exitcode\s*: -9\b", r"^Killed$", r": line \d+: +\d+ Killed {4}",
                  r"died with <Signals\.SIGKILL: 9>",
                  r"terminated with signal SIGKILL",
                  r"DataLoader worker \(pid\(?s?\)? (?P<pid>\d+)\) .*killed by signal: Killed",
                  task_ended(r"Killed")),
        cause="a process was killed (signal 9) without a word: by somebody, or by the kernel for want of memory",
        fix="dmesg | grep -i 'killed process' on that node tells whether it was memory; continue with --resume auto",
        source="the kernel's signal 9, as launchers report it",
        standing="death",
        another_try=True,
    ),
    Known(
        name="terminated",
        code=ExitCode.WORKER,
        patterns=(raised("SignalException"), r"Received (?:\d+|Signals\.\w+) death signal, shutting down workers"),
        cause="the launcher was told to end (SIGTERM, or SIGHUP when a terminal closes) and ended its workers",
        fix=(
            "see who sent it: the scheduler's log, or a terminal that was closed (use tmux or sbatch); continue with"
            " --resume auto"
        ),
        source="torchrun, distributed/elastic/agent",
        standing="death",
        another_try=True,
    ),
    Known(
        name="aborted",
        code=ExitCode.WORKER,
        patterns=(r"Signal 6 \(SIGABRT\)", r"exitcode\s*: -6\b", r"terminate called after throwing an instance of",
                  r"Fatal Python error: Aborted", r": line \d+: +\d+ Aborted {4}", task_ended(r"Aborted")),
        cause="a process ended itself (abort); what it said before is the reason",
        fix="read the end of that rank's log",
        source="the C library's abort, as launchers report it",
        standing="echo",
        another_try=True,
    ),
    Known(
        name="closed-by-launcher",
        code=ExitCode.WORKER,
        patterns=(r"Signal 15 \(SIGTERM\)", r"exitcode\s*: -15\b",
                  r"(?:Closing|Sending) process \d+ (?:via signal|closing signal) SIGTERM",
                  task_ended(r"Terminated")),
        cause="the launcher ended this process because another one had failed",
        fix="",
        source="torchrun, distributed/elastic/multiprocessing",
        standing="echo",
        another_try=True,
    ),
    Known(
        name="worker-failed",
        code=ExitCode.WORKER,
        patterns=(raised("ChildFailedError"), r"exitcode\s*: [1-9]\d*\b", task_ended(r"Exited with exit code \d+")),
        cause="a worker ended with an error; its own log has it",
        fix="read that rank's log",
        source="torchrun; srun",
        standing="echo",
        another_try=True,
    ),
)  # fmt: skip

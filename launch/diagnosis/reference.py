"""docs/diagnose.md: the command, what it prints, and the table of known failures.

python -m launch.diagnosis.reference > docs/diagnose.md
"""

from launch.diagnosis.known import KNOWN

INTRODUCTION = """\
# Why a run ended

`muster diagnose RUN` prints one page: the first failure, on which rank and node, the lines that tell of it, what the
other ranks made of it, what was tried since, and what to do. Here a rank of two was ended by a signal while it trained:

    $ muster diagnose runs/run
    run        run, attempt 1 of 1: failed
               /home/ml/runs/run
    cause      rank 1 on vm: a compiled library read memory that is not its own
    class      worker, exit code 10; segfault
    said by    the kernel's signal 11
    when       2026-11-27 05:17:52, training, step 24
    evidence   attempts/001/launcher.log:42
                 exitcode  : -11 (pid: 14239)  (SIGSEGV)
               attempts/001/launcher.log:44
                 traceback : Signal 11 (SIGSEGV) received by PID 14239
    echoes     attempts/001/rank-0.log:36 (rank 0)
                 RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transp...
    fix        set PYTHONFAULTHANDLER=1 and start again: the Python stack names the
               library; most often one that was built for another torch or CUDA

A run that is fine is said to be fine; one that trains now, or was stopped on purpose, too. `--attempt N` looks at an
earlier attempt. The exit code is 0 whenever a page was made, and 2 for a place that is no run.

## What it reads

- every log of the attempt, from front to back, whatever its size: 300 MB take a second, or
  six where no line is like another, and 40 MB of memory.
  Only lines with certain words in them are held against the table below;
- failure files and pulses of the ranks (`failure-rank-R.json`, `pulse-rank-R.json`): class, time, step, phase, node;
- logs of batch jobs that lie in the run directory (`*.log`, `slurm-*.out`);
- Slurm's records of the job in `job.json` or `events.jsonl`, by `sacct`, or by `scontrol` where no accounting is kept,
  each waited for 10 s at most;
- the kernel's log of the machine it is called on, if the failing node is this one: Xid errors, and processes that were
  killed for want of memory, within the time of the attempt, if they are the run's own.

What could not be read stands at the end of the page, under `not read`.

## Which failure is the first

When one rank dies the others lose their connection, and say so first and louder. So lines have a standing: a *cause*
explains an end by itself; a *death* is a process that ended without a word; a *doubt*, such as a collective that timed
out, may be either; an *echo* follows from another rank's end. The highest standing counts, and of equals the earliest.

- Times are those of the log lines, of failure files, or of the rank's last pulse, in the time zone of this machine.
  Where the nodes of a run compared their clocks (`fleet-clock` in `preflight.json`), each node's offset is taken off.
- Of exceptions that came of one another the most specific one counts.
- An exception after which training went on, as three further steps show, is none; nor is one that Python set aside.
- torchrun's "root cause" is not believed: of two workers that end within one of its looks it names either.
- Of a collective that timed out, the rank is named that the others waited for: the one that did not come, or the one
  that has completed fewer. A page that names a doubt or an echo says `probably`.

`muster run` uses the same where a worker leaves no failure file, because a library written in C++ ended it: the reason
in `outcome.json`, and the exit code, are then those of the log.

## As JSON

`--json` prints one document: `run`, `name`, `attempt`, `status` (`done`, `running`, `stopped`, `failed`, `broken off`,
`not started`), `why` (one sentence), `cause`, `attempts` (`attempt`, `exit_code`, `class`, `reason`, `step`, `seconds`,
`then`: what was changed after it), `unread`. `cause` is null, or holds

| key | what |
| --- | --- |
| `name` | of the table below; `reported` where muster's own message is all there is |
| `class`, `exit_code` | as in [runs.md](runs.md#exit-codes) |
| `rank`, `node` | who failed first; null where no line tells |
| `time` | seconds since 1970, corrected by the node's clock |
| `phase` | loading, forward, backward, optimizer step, evaluation, saving, by the traceback; else the last pulse's |
| `step` | the optimizer step of the rank's last pulse |
| `summary`, `fix`, `source` | in words |
| `certain` | whether it explains the end by itself |
| `another_try` | whether the same run may succeed when it is started again as it is |
| `evidence`, `echoes` | lines of that failure, and of other ranks: `file`, `line`, `text`, `rank`, `node`, `time` |

## Known failures

The first row that fits a line is the one. Python's exceptions are classified by the same table, in the workers. It is
held against logs in the shapes of public failures (`tests/launch/diagnosis/corpus`, with the issues that each shape was
taken from): in each the first cause is named with its line, and of healthy ones nothing is claimed.

| name | class | standing | what it means |
| --- | --- | --- | --- |
"""


def reference() -> str:
    rows = [f"| `{one.name}` | {one.code.name.lower()} | {one.standing} | {one.cause} |" for one in KNOWN]
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(reference(), end="")

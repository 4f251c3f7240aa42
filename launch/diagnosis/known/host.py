"""Failures of the machine around the GPUs: memory, disk, files, limits."""

from launch.diagnosis.known.failure import Known, raised, task_ended
from launch.errors import ExitCode

ROOM = "Free memory or disk, then --resume auto"

MEMORY = (
    Known(
        name="oom-killed",
        code=ExitCode.HOST,
        patterns=(
            r"[Dd]etected \d+ oom[-_]kill event", r"(?:some of )?(?:the step|your) (?:tasks|processes).* OOM Killed",
            task_ended("Out Of Memory"),
            r"(?:Out of memory|Memory cgroup out of memory): Killed process (?P<pid>\d+)", r"oom-kill:constraint=\w+",
            r"JobState=OUT_OF_MEMORY", r"slurmstepd: error: .*[Ee]xceeded (?:job |step )?memory limit",
        ),
        cause="the kernel killed a process because the machine's memory, or the job's share of it, was used up",
        fix=(
            "ask for more memory (sbatch --mem), run fewer ranks on a node, or fewer workers that tokenise; loading"
            " needs the whole base once a rank. Then --resume auto"
        ),
        source="the kernel's log; slurmstepd",
    ),
    Known(
        name="host-memory",
        code=ExitCode.HOST,
        patterns=(r"DefaultCPUAllocator: can't allocate memory", raised("MemoryError", r"_?ArrayMemoryError"),
                  r"\[Errno 12\] Cannot allocate memory", r"Cannot allocate memory \(12\)", r"std::bad_alloc"),
        cause="the machine has no memory left to give",
        fix=ROOM,
        source="Python; torch's CPU allocator",
    ),
)  # fmt: skip

DISK = (
    Known(
        name="shared-memory",
        code=ExitCode.HOST,
        patterns=(r"unable to (?:open|mmap|write) .*shared memory", r"insufficient shared memory \(shm\)",
                  r"killed by signal: Bus error", r"No space left on device.*\bshm\b",
                  r"\bshm\b.*No space left on device",
                  r"out of shared memory", r"Signal 7 \(SIGBUS\)", r"[Bb]us error +\(core dumped\)",
                  r"Fatal Python error: Bus error", task_ended("Bus error")),
        cause="shared memory (/dev/shm) is too small, as in containers with 64 MB, or a mapped file was cut short",
        fix="enlarge /dev/shm (docker --shm-size, mount -o remount,size=), or use fewer data-loading workers",
        source="torch.utils.data; the kernel's signal 7",
    ),
    Known(
        name="disk-full",
        code=ExitCode.HOST,
        patterns=(r"No space left on device", r"PytorchStreamWriter failed writing file",
                  r"inline_container\.cc:\d+\] \. unexpected pos"),
        cause="the disk is full, or has no inodes left",
        fix="free space (df -h and df -i); checkpoints that are complete are good. Then --resume auto",
        source="the kernel, errno 28; torch's file writer",
    ),
    Known(
        name="disk-quota",
        code=ExitCode.HOST,
        patterns=(r"Disk quota exceeded",),
        cause="your quota on this file system is used up, in bytes or in files",
        fix="free space within your quota (quota -s, lfs quota), or choose another --run-dir. Then --resume auto",
        source="the kernel, errno 122",
    ),
    Known(
        name="read-only",
        code=ExitCode.HOST,
        patterns=(r"Read-only file system",),
        cause="the file system is mounted read-only, often after an error of its own",
        fix="see dmesg on that node; choose another --run-dir, or another node. Then --resume auto",
        source="the kernel, errno 30",
    ),
    Known(
        name="permission",
        code=ExitCode.HOST,
        patterns=(raised("PermissionError"), raised("OSError", "RuntimeError", saying="Permission denied"),
                  r"(?:slurmstepd|srun): error: execve\(\): .*: Permission denied"),
        cause="a file or folder may not be read or written by this user",
        fix="ls -ld the path that the message names; change its owner or mode, or choose another path",
        source="the kernel, errno 13",
    ),
    Known(
        name="stale-file",
        code=ExitCode.HOST,
        patterns=(r"Stale file handle", r"Input/output error",
                  r"Cannot send after transport endpoint shutdown", r"Transport endpoint is not connected: '/"),
        cause="shared storage lost a file that was open, or could not read it",
        fix="see whether every node still mounts it (df, dmesg); another try often works. Then --resume auto",
        source="the kernel, errno 116, 5, 107 and 108",
        another_try=True,
    ),
    Known(
        name="open-files",
        code=ExitCode.HOST,
        patterns=(r"Too many open files", r"received 0 items of ancdata"),
        cause="the process may open no more files",
        fix="raise the limit (ulimit -n 65536; sbatch --propagate=NOFILE), or use fewer data-loading workers",
        source="the kernel, errno 24",
    ),
    Known(
        name="process-limit",
        code=ExitCode.HOST,
        patterns=(r"can't start new thread", r"BlockingIOError: \[Errno 11\] Resource temporarily unavailable",
                  r"fork: (?:retry: )?Resource temporarily unavailable"),
        cause="this user, or this container, may start no more processes and threads",
        fix=(
            "raise the limit (ulimit -u; docker --pids-limit), run fewer ranks and data-loading workers on the node,"
            " or set OMP_NUM_THREADS=1"
        ),
        source="the kernel, errno 11 of clone",
    ),
)  # fmt: skip

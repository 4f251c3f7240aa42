"""Why a run ended: exceptions, failure files, logs, exit codes, the kernel's and Slurm's records -> the first cause.

Pure: known/ (the table of failures), lines.py, tracebacks.py, hits.py, cause.py, exceptions.py, and ending.py but for
read_failures. They are what workers use as well. At the edge: scan.py reads logs of any size, explain.py one attempt,
records.py the kernel and Slurm; report.py puts a run together, page.py shows it.
"""

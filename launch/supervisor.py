"""python -m launch.supervisor SPEC [options of muster run]: what a batch job starts.

The same as `muster run`, on the nodes of the job: they are asked what is wrong with them, the best ones train, and a
failure, a time limit or a lost node is followed by what can be done about it.
"""

import sys

from launch.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["run", "--in-job"]
    main()

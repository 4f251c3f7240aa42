"""python -m launch: the `muster` command from a clone."""

from launch.cli import main

main()

"""python -m launch: the `muster` command from a clone."""

from launch.cli import main

if __name__ == "__main__":
    main()

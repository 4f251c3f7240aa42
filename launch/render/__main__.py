"""python -m launch.render: writes accelerate_configs/, ds_configs/ and the scripts in slurm/ anew."""

from pathlib import Path

from launch.render.configs import shipped

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    for path, text in shipped().items():
        (root / path).write_text(text, encoding="utf-8")

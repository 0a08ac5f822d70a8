"""`python -m autowu plot RUN_DIR`: draw a run of train.py."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "plot",
        help="draw a run of train.py",
        description="Draw a run of train.py, finished or not: loss, tests and learning rate.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="what train.py wrote")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the image, .png, .svg or .pdf (default: RUN_DIR/schedule.png)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from autowu.plotting import plot_run

    print(plot_run(options.run_dir, options.out))

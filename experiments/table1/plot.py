"""Table 1: AdamP on CIFAR-10, CIFAR-100 and ImageNet.

python -m experiments.table1.plot     table1.png and the tables of README.md, from results.csv
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.collect import Row
from experiments.paper import cell_text, draw_table, full_budget
from experiments.report import read_results
from experiments.tables import markdown_table, put_between_marks

FOLDER = Path(__file__).parent
# Rows of AutoWU as it was: without a probe, and with one that went by half of the fall alone.
VARIANTS = {"noprobe": "no probe", "firstprobe": "first probe"}


def label_of(row: Row) -> str:
    return ", ".join(filter(None, (row["method"], VARIANTS.get(row["variant"]))))


def budget_table(rows: Sequence[Row]) -> str:
    """The shorter budgets of scripts/gpu_table1.sh: a line for each, a column for each method."""
    full = full_budget(rows)
    short = [row for row in rows if row not in full]
    plain_first = sorted(short, key=lambda row: row["variant"] != "")
    methods = list(dict.fromkeys(label_of(row) for row in plain_first))
    budgets = sorted({(int(row["epochs"]), int(row["batch_size"])) for row in short})
    lines = [
        [
            epochs,
            batch_size,
            *(
                cell_text(
                    [
                        row
                        for row in short
                        if label_of(row) == method
                        and (row["epochs"], row["batch_size"]) == (str(epochs), str(batch_size))
                    ]
                )
                for method in methods
            ),
        ]
        for epochs, batch_size in budgets
    ]
    return markdown_table(["epochs", "batch", *methods], lines)


if __name__ == "__main__":
    draw_table(__doc__, FOLDER, label_of)
    table = budget_table(read_results(FOLDER / "results.csv"))
    put_between_marks(FOLDER / "README.md", "budgets", table)
    print(table)

"""Table 4: AutoWU with three caps of the warmup.

python -m experiments.table4.plot     table4.png and the table of README.md, from results.csv
"""

from pathlib import Path

from experiments.paper import draw_table

if __name__ == "__main__":
    draw_table(
        __doc__,
        Path(__file__).parent,
        lambda row: f"max_warmup_fraction {row['max_warmup_fraction']}",
    )

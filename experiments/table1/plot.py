"""Table 1: AdamP on CIFAR-10, CIFAR-100 and ImageNet.

python -m experiments.table1.plot     table1.png and the table of README.md, from results.csv
"""

from pathlib import Path

from experiments.paper import draw_table

if __name__ == "__main__":
    draw_table(__doc__, Path(__file__).parent, lambda row: row["method"])

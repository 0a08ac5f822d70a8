"""Table 2: LAMB on CIFAR-10 and CIFAR-100.

python -m experiments.table2.plot     table2.png and the table of README.md, from results.csv
"""

from pathlib import Path

from experiments.paper import draw_table

if __name__ == "__main__":
    draw_table(__doc__, Path(__file__).parent, lambda row: row["method"])

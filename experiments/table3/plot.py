"""Table 3: EfficientNet-B0 and ViT-S/16 on ImageNet.

python -m experiments.table3.plot     table3.png and the table of README.md, from results.csv
"""

from pathlib import Path

from experiments.paper import draw_table

if __name__ == "__main__":
    draw_table(__doc__, Path(__file__).parent, lambda row: row["method"])

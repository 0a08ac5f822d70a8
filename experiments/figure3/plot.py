"""Figure 3: the LR that AutoWU found and the training loss, by batch size; the runs of Table 2.

python -m experiments.figure3.plot runs/paper     collects curves.csv, then draws figure3.png
python -m experiments.figure3.plot                draws it again from curves.csv; without one all
                                                  panels say `not run`
"""

from pathlib import Path

from experiments.curves import draw_runs

FOLDER = Path(__file__).parent

if __name__ == "__main__":
    draw_runs(__doc__, FOLDER)

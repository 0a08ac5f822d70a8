# shellcheck shell=bash
# Figure 4 shows the runs of Table 3.
source experiments/table3/sweep.sh

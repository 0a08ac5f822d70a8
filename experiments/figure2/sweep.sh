# shellcheck shell=bash
# Figure 2 shows the runs of Table 1.
source experiments/table1/sweep.sh

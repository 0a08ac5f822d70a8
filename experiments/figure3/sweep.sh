# shellcheck shell=bash
# Figure 3 shows the runs of Table 2.
source experiments/table2/sweep.sh

# shellcheck shell=bash
# Figure 7 shows the runs of Table 4.
source experiments/table4/sweep.sh

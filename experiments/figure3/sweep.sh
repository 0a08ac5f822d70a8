# shellcheck shell=bash
# Figure 3: of the runs of Table 2 those that it shows, AutoWU with a cosine at four batch sizes; read
# by scripts/paper.sh.
sweep_cells() {
    grid cifar10_resnet18_lamb_autowu "16384 8192 1024 256" "0" 2048
    grid cifar100_wrn28_10_lamb_autowu "16384 8192 1024 256" "0" 512
}

# shellcheck shell=bash
# Table 2: LAMB, three schedules at four batch sizes; read by scripts/paper.sh.
sweep_cells() {
    row cifar10_resnet18_lamb "16384 8192 1024 256" "0 1 2" 2048
    row cifar100_wrn28_10_lamb "16384 8192 1024 256" "0 1 2" 512
}

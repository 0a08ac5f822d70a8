# shellcheck shell=bash
# Table 1: AdamP, three schedules at four batch sizes; read by scripts/paper.sh.
sweep_cells() {
    row cifar10_resnet18_adamp "16384 8192 1024 256" "0 1 2" 2048
    row cifar100_wrn28_10_adamp "16384 8192 1024 256" "0 1 2" 512
    row imagenet_resnet50_adamp "32768 16384 4096 1024" "0" 256
}

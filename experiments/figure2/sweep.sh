# shellcheck shell=bash
# Figure 2: of the runs of Table 1 those that it shows, AutoWU with a cosine at four batch sizes; read
# by scripts/paper.sh.
sweep_cells() {
    grid cifar10_resnet18_adamp_autowu "16384 8192 1024 256" "0" 2048
    grid cifar100_wrn28_10_adamp_autowu "16384 8192 1024 256" "0" 512
    grid imagenet_resnet50_adamp_autowu "32768 16384 4096 1024" "0" 256
}

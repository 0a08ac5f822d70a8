# shellcheck shell=bash
# Table 3: other networks on ImageNet, three schedules at four batch sizes; read by scripts/paper.sh.
sweep_cells() {
    row imagenet_efficientnet_b0_adamp "32768 16384 4096 1024" "0" 256
    row imagenet_vit_s16_adamp "32768 16384 4096 1024" "0" 256
}

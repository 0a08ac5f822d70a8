# shellcheck shell=bash
# Figure 4: of the runs of Table 3 those that it shows, AutoWU with a cosine at four batch sizes; read
# by scripts/paper.sh.
sweep_cells() {
    grid imagenet_efficientnet_b0_adamp_autowu "32768 16384 4096 1024" "0" 256
    grid imagenet_vit_s16_adamp_autowu "32768 16384 4096 1024" "0" 256
}

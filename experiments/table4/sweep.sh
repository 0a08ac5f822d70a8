# shellcheck shell=bash
# Table 4: three caps of the warmup at four batch sizes; read by scripts/paper.sh. The cap of 0.5 is
# a row of Table 1.
sweep_cells() {
    local config=imagenet_resnet50_adamp_autowu
    grid "$config ${config}_warmup0.25 ${config}_warmup0.125" "32768 16384 4096 1024" "0" 256
}

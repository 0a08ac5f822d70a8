# shellcheck shell=bash
# Figure 6: exponential against linear growth; read by scripts/paper.sh. The first two cells are
# Table 1's.
sweep_cells() {
    local stem=imagenet_resnet50_adamp
    grid "${stem}_baseline ${stem}_autowu ${stem}_autowu_linear1.0 ${stem}_autowu_linear0.1" \
        "16384" "0" 256
}

# shellcheck shell=bash
# Figure 5: the baseline at every peak LR and warmup length; read by scripts/paper.sh. The cells are
# those of scripts/sweep_baseline_lr.sh, whose grid is explained there.
sweep_cells() {
    local config=imagenet_resnet50_adamp_baseline lr warmup
    for lr in ${LRS:-0.004 0.008 0.016 0.032}; do
        for warmup in ${WARMUP_EPOCHS:-5 10 20 40}; do
            grid "$config" "16384" "0" 256 | sed \
                -e "s/-seed\([0-9]*\) /-lr$lr-warmup$warmup-seed\1 /" \
                -e "s/\$/ optimizer.lr=$lr schedule.scale_lr=none schedule.warmup_epochs=$warmup/"
        done
    done
}

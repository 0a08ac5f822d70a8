"""What is compared: AutoWU, and what people use today, each as a recipe of a trial."""

from autowu.probe import NUM_SAMPLES
from autowu.settings import PAPER
from experiments.training.trial import Recipe

# As train.py has it; the other recipes of AutoWU begin their sweep at its `min_lr`.
AUTOWU = {
    "autowu_cosine": Recipe(num_probe_images=NUM_SAMPLES),
    "autowu_constant_cosine": Recipe(
        schedule_settings={"decay": "constant_cosine"}, num_probe_images=NUM_SAMPLES
    ),
    "autowu_no_probe": Recipe(),
    "autowu_fixed_sweep": Recipe(schedule_settings={"sweep": "fixed"}),
    "paper": Recipe(schedule_settings=PAPER),
}
SHORTER = "autowu_shorter"  # with a shorter warmup after its probe
TRIED = {
    SHORTER: Recipe(schedule_settings={"probed_warmup_fraction": 0.3}, num_probe_images=NUM_SAMPLES)
}
# Nothing in them is tuned: the LRs are those that their authors or libraries have by default.
UNTUNED = {
    "range_test_onecycle": Recipe(
        schedule="range_test_onecycle", schedule_settings={"num_steps": 100}
    ),
    "prodigy": Recipe("prodigy", {"lr": 1.0}, "cosine"),
    "schedulefree": Recipe("schedulefree", {"lr": 0.0025}, "constant"),
}
EARLIER_GROWTH = 1.03  # of the LR in a step after a probe, as `autowu.sweep.PROBED_GROWTH` was
UNTUNED_LR = 0.001  # of AdamP and AdamW
UNTUNED_WARMUP = 0.1


def warmup_cosine(lr: float, warmup: float, epochs: int, optimizer: str = "adamp") -> Recipe:
    """A linear warmup over a fraction of the epochs to a peak LR, then a cosine to 0."""
    settings = {"warmup_epochs": warmup * epochs}
    return Recipe(optimizer, {"lr": lr}, "warmup_cosine", settings)

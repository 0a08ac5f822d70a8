"""Every schedule by name: against PyTorch's and timm's own, and against tables by hand."""

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer, lr_scheduler

from autowu import AutoWU, Phase
from autowu.trainer.phased_curve import LateOneCycle, PhasedCurve
from autowu.trainer.plateau import PlateauSchedule
from autowu.trainer.schedules import Schedule, available, canonical, create

EPOCHS, STEPS = 12, 5  # of a run: 60 optimizer steps
NAMES = [
    "autowu", "warmup_cosine", "cosine", "constant", "multistep", "step", "exponential", "linear",
    "polynomial", "inverse_sqrt", "onecycle", "cosine_restarts", "plateau", "composite", "wsd",
    "lr_range_test", "range_test_onecycle",
]  # fmt: skip
RAMP_AND_WAVE = [
    {"name": "linear", "length": 0.2, "start": 0.1, "end": 1.0},
    {"name": "cosine", "length": 0.8},
]
# What a name needs beyond its defaults.
NEEDED: dict[str, dict[str, Any]] = {"composite": {"curves": RAMP_AND_WAVE}}


def sgd(lr: float = 0.4, *groups: dict[str, Any]) -> SGD:
    parameters = [{"params": [torch.zeros(1, requires_grad=True)], **group} for group in groups]
    return SGD(parameters or [torch.zeros(1, requires_grad=True)], lr=lr)


def build(name: str, optimizer: Optimizer | None = None, **settings: Any) -> Any:
    run = {"epochs": EPOCHS, "steps_per_epoch": STEPS}
    run.update((key, settings.pop(key)) for key in list(settings) if key in run)
    return create(name, optimizer or sgd(), **run, **settings)


def table(schedule: Any, num_steps: int = EPOCHS * STEPS) -> list[float]:
    """The LR of steps 0 to `num_steps`."""
    lrs = [schedule.optimizer.param_groups[0]["lr"]]
    for _ in range(num_steps):
        schedule.optimizer.step()
        schedule.step(torch.tensor(1.0))
        lrs.append(schedule.optimizer.param_groups[0]["lr"])
    return lrs


def table_of_torch(
    build: Callable[[Optimizer], Any], num_steps: int = EPOCHS * STEPS, every: int = 1
) -> list[float]:
    """The same of a scheduler of PyTorch's that is stepped `every` so many steps."""
    scheduler = build(sgd())
    lrs = [scheduler.get_last_lr()[0]]
    for step in range(1, num_steps + 1):
        scheduler.optimizer.step()
        if step % every == 0:
            scheduler.step()
        lrs.append(scheduler.get_last_lr()[0])
    return lrs


# --- names -------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_registry_in_its_order() -> None:
    assert available() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_case_and_separators_do_not_matter(name: str) -> None:
    for spelled in (name.upper(), name.replace("_", "-"), name.replace("_", "")):
        assert canonical(spelled) == name
    assert type(build(name.title(), **NEEDED.get(name, {}))) is type(
        build(name, **NEEDED.get(name, {}))
    )


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"schedule.name=cosin: .*did you mean cosine or"):
        build("cosin")
    with pytest.raises(ValueError, match=r"polynomal: .*did you mean polynomial"):
        canonical("polynomal")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_keyword_is_told_the_ones_that_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule.patiens=3: unknown .*{name} takes \w+, \w+"):
        build(name, **NEEDED.get(name, {}), patiens=3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("step", {"gamma": -0.5}, "schedule.gamma=-0.5: must be at least 0"),
        ("step", {"gamma": "low"}, "schedule.gamma=low: must be a number"),
        ("step", {"gamma": math.nan}, "schedule.gamma=nan: must be"),
        ("multistep", {"milestones": [6, 3]}, r"milestones=\[6, 3\]: must be in ascending order"),
        ("multistep", {"milestones": (3, 3)}, "must be in ascending order, none of them twice"),
        ("multistep", {"milestones": [3, 12]}, r"milestones=\[3, 12\]: must be below epochs=12"),
        ("multistep", {"milestones": [-1, 3]}, r"milestones=\[-1, 3\]: must be above 0"),
        ("multistep", {"milestones": 3}, "milestones=3: must be a list of numbers"),
        ("multistep", {"milestones": [3], "factors": [0.1, 0.2]}, "factors=.*must be 1 number"),
        ("cosine", {"warmup_epochs": 12}, "warmup_epochs=12: must be below epochs=12"),
        ("cosine", {"warmup_epochs": -1}, "warmup_epochs=-1: must be at least 0"),
        ("cosine", {"warmup_epochs": 11.95}, "makes 60 steps of warmup"),
        ("cosine", {"update": "epochs"}, "update=epochs: must be step or epoch.*did you mean"),
        ("cosine", {"scale_lr": "linear"}, "scale_lr=linear: needs batch_size, got None"),
        ("composite", {}, r"curves=\[\]: must be a list of curves"),
        ("composite", {"curves": [{"name": "cosine", "length": 0.4}]}, "must sum to 1.* 0.4"),
        ("autowu", {"patience": 1.5}, "patience=1.5: must be an integer"),
        ("autowu", {"cooldown_fraction": 0.3}, "cooldown_fraction=0.3: acts only with"),
        ("cosine", {"epochs": 0}, "epochs must be an integer, at least 1, got 0"),
        ("cosine", {"batch_size": 0}, "batch_size must be an integer, at least 1, got 0"),
        ("cosine", {"steps_per_epoch": 2.5}, "steps_per_epoch must be an integer.*got 2.5"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **settings)


# --- what every schedule is ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_keeps_to_the_protocol(name: str) -> None:
    schedule: Schedule = build(name, **NEEDED.get(name, {}))
    if isinstance(schedule, LateOneCycle):
        schedule.set_peak(0.1)
    assert schedule.phase in Phase
    assert (schedule.switch_step is None) == (schedule.phase is Phase.WARMUP)
    assert (schedule.start_lr is None) == (schedule.phase is Phase.WARMUP)
    assert not schedule.diverged and len(schedule.tests) == 0
    schedule.observe(torch.tensor(1.0))
    schedule.optimizer.step()  # type: ignore[attr-defined]
    schedule.step(torch.tensor(1.0))
    assert len(schedule.get_last_lr()) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("done", [0, 1, 7, 33, 59])
@pytest.mark.parametrize("update", ["step", "epoch"])
def test_a_schedule_goes_on_from_its_state_with_the_same_lrs(
    name: str, done: int, update: str
) -> None:
    settings = dict(NEEDED.get(name, {}))
    if name not in ("autowu", "lr_range_test", "range_test_onecycle"):
        settings["update"] = update
        if name != "composite":
            settings |= {"warmup_epochs": 2, "warmup": "exponential"}

    def fresh() -> Any:
        groups = [{"lr": 0.4}, {"lr": 0.04}, {"lr": 0.4, "lr_scale": 0.5}]
        return build(name, sgd(0.4, *groups), **settings)

    def advance(schedule: Any, first: int, last: int) -> list[list[float]]:
        lrs = [[group["lr"] for group in schedule.optimizer.param_groups]]
        for step in range(first, last):
            schedule.optimizer.step()
            schedule.step(torch.tensor(1.0 + 0.1 * (step % 3)))
            if isinstance(schedule, PlateauSchedule) and (step + 1) % STEPS == 0:
                schedule.end_epoch(1.0)
            lrs.append([group["lr"] for group in schedule.optimizer.param_groups])
        return lrs

    schedule, resumed = fresh(), fresh()
    if isinstance(schedule, LateOneCycle):
        schedule.set_peak(0.3)
    advance(schedule, 0, done)
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.get_last_lr() == schedule.get_last_lr()
    assert resumed.switch_step == schedule.switch_step
    assert advance(resumed, done, 63) == advance(schedule, done, 63)
    first, second, third = (group["lr"] for group in schedule.optimizer.param_groups)
    assert second == pytest.approx(0.1 * first)
    assert third == pytest.approx(0.5 * first)


# --- against PyTorch's --------------------------------------------------------------------------


def torch_multistep(optimizer: Optimizer) -> Any:
    return lr_scheduler.MultiStepLR(optimizer, [3, 7], 0.2)


@pytest.mark.parametrize(
    ("name", "settings", "torchs"),
    [
        ("constant", {}, lambda opt: lr_scheduler.ConstantLR(opt, 1.0)),
        ("step", {"step_epochs": 5, "gamma": 0.3}, lambda opt: lr_scheduler.StepLR(opt, 5, 0.3)),
        ("step", {}, lambda opt: lr_scheduler.StepLR(opt, 4, 0.1)),
        ("multistep", {"milestones": [3, 7], "gamma": 0.2}, torch_multistep),
        ("multistep", {"milestones": [3, 7], "factors": [0.2, 0.04]}, torch_multistep),
        ("multistep", {}, lambda opt: lr_scheduler.MultiStepLR(opt, [6, 9], 0.1)),
        ("exponential", {"gamma": 0.8}, lambda opt: lr_scheduler.ExponentialLR(opt, 0.8)),
        ("linear", {"end_lr_ratio": 0.1}, lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.1, 12)),
        ("polynomial", {"power": 3}, lambda opt: lr_scheduler.PolynomialLR(opt, 12, 3)),
        ("cosine", {}, lambda opt: lr_scheduler.CosineAnnealingLR(opt, 12)),
        ("cosine", {"end_lr_ratio": 0.5}, lambda opt: lr_scheduler.CosineAnnealingLR(opt, 12, 0.2)),
        ("onecycle", {"anneal": "linear"}, lambda opt: lr_scheduler.OneCycleLR(
            opt, 0.4, 13, anneal_strategy="linear", cycle_momentum=False)),
    ],
)  # fmt: skip
def test_a_classic_that_changes_every_epoch_is_torchs(
    name: str, settings: dict[str, Any], torchs: Callable[[Optimizer], Any]
) -> None:
    ours = table(build(name, update="epoch", **settings))
    assert ours == pytest.approx(table_of_torch(torchs, every=STEPS), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "settings", "torchs"),
    [
        ("step", {"step_epochs": 2.2}, lambda opt: lr_scheduler.StepLR(opt, 11, 0.1)),
        ("multistep", {"milestones": [3, 7.2]},
         lambda opt: lr_scheduler.MultiStepLR(opt, [15, 36])),
        ("exponential", {"gamma": 0.8}, lambda opt: lr_scheduler.ExponentialLR(opt, 0.8**0.2)),
        ("exponential", {}, lambda opt: lr_scheduler.ExponentialLR(opt, 1e-3 ** (1 / 60))),
        ("linear", {}, lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.0, 60)),
        ("polynomial", {}, lambda opt: lr_scheduler.PolynomialLR(opt, 60, 2)),
        ("cosine", {}, lambda opt: lr_scheduler.CosineAnnealingLR(opt, 60)),
        ("onecycle", {}, lambda opt: lr_scheduler.OneCycleLR(opt, 0.4, 61, cycle_momentum=False)),
        ("onecycle", {"three_phase": True}, lambda opt: lr_scheduler.OneCycleLR(
            opt, 0.4, 61, cycle_momentum=False, three_phase=True)),
    ],
)  # fmt: skip
def test_a_classic_that_changes_every_step_is_torchs(
    name: str, settings: dict[str, Any], torchs: Callable[[Optimizer], Any]
) -> None:
    assert table(build(name, **settings)) == pytest.approx(
        table_of_torch(torchs), rel=1e-9, abs=1e-15
    )


def test_restarts_are_torchs_up_to_the_last_step() -> None:
    ours = table(build("cosine_restarts", cycle_epochs=1.6, cycle_mult=2))
    torchs = table_of_torch(lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 8, 2))
    assert ours == pytest.approx(torchs, rel=1e-9, abs=1e-15)
    ours = table(build("cosine_restarts"))  # 3 waves of 20 steps
    torchs = table_of_torch(lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 20))
    assert ours[:-1] == pytest.approx(torchs[:-1], rel=1e-9, abs=1e-15)
    assert (ours[-1], torchs[-1]) == (0.0, 0.4)  # the run ends low, and does not begin anew


def test_a_warmup_and_a_cosine_are_timms() -> None:
    from timm.scheduler import CosineLRScheduler

    optimizer = sgd()
    timms = CosineLRScheduler(optimizer, t_initial=50, warmup_t=10, warmup_prefix=True,
                              warmup_lr_init=0.1, t_in_epochs=False)  # fmt: skip
    expected = [optimizer.param_groups[0]["lr"]]
    for step in range(1, 60):
        timms.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = table(build("cosine", warmup_epochs=2, warmup_start_ratio=0.25))
    assert ours[:-1] == pytest.approx(expected, rel=1e-9)
    assert ours[-1] == 0.0


def test_layer_scales_act_as_timms() -> None:
    from timm.scheduler import CosineLRScheduler

    groups = [{"lr_scale": 1.0}, {"lr_scale": 0.75}, {"lr_scale": 0.5625}]
    theirs, ours = sgd(0.4, *groups), sgd(0.4, *groups)
    timms = CosineLRScheduler(theirs, t_initial=60, t_in_epochs=False)
    schedule = build("cosine", ours)
    for step in range(60):
        timms.step_update(step)
        for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert group["lr"] == pytest.approx(other["lr"], rel=1e-9)
        ours.step()
        schedule.step(None)


# --- warmups ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["warmup_cosine", "cosine", "constant", "multistep", "step", "exponential", "linear",
     "polynomial", "inverse_sqrt", "onecycle", "cosine_restarts", "plateau", "wsd"],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["linear", "exponential"])
@pytest.mark.parametrize("update", ["step", "epoch"])
def test_a_warmup_of_any_schedule_ends_at_its_curve_without_a_jump(
    name: str, shape: str, update: str
) -> None:
    per_unit = STEPS if update == "epoch" else 1
    units = 15 // per_unit  # 3 epochs
    schedule = build(name, warmup_epochs=3, warmup=shape, update=update)
    lrs = table(schedule)
    peak = lrs[15]  # where the warmup ends
    assert peak == pytest.approx(0.4 / 25 if name == "onecycle" else 0.4)
    for step in range(15):
        done = step // per_unit
        if shape == "linear":
            expected = peak * (done + 1) / (units + 1)
        else:
            expected = peak * 0.01 ** (1 - done / units)
        assert lrs[step] == pytest.approx(expected), step
    if name != "onecycle":  # which has a rise of its own
        assert (schedule.switch_step, schedule.start_lr) == (15, pytest.approx(0.4))


def test_curves_that_go_to_an_end_span_what_the_warmup_leaves() -> None:
    lrs = table(build("linear", warmup_epochs=4))
    assert lrs[20:] == pytest.approx([0.4 * (1 - k / 40) for k in range(41)])
    lrs = table(build("wsd", warmup_epochs=4, cooldown_fraction=0.25, shape="linear"))
    assert lrs[20:] == pytest.approx([0.4] * 26 + [0.4 * (1 - k / 15) for k in range(1, 16)])
    lrs = table(build("wsd", cooldown_fraction=0.25, end_lr_ratio=0.5))
    expected = [0.4 * (1 - 0.5 * math.sqrt(k / 15)) for k in range(16)]
    assert lrs[45:] == pytest.approx(expected)
    lrs = table(build("inverse_sqrt", warmup_epochs=4))  # the Transformer's: timescale 20 steps
    assert lrs[20:] == pytest.approx([0.4 * math.sqrt(20 / t) for t in range(20, 61)])
    lrs = table(build("inverse_sqrt", timescale_epochs=2))
    assert lrs == pytest.approx([0.4 * math.sqrt(10 / (10 + t)) for t in range(61)])
    lrs = table(build("cosine_restarts", warmup_epochs=2, num_cycles=2, wave="full"))
    assert [lrs[10], lrs[35], lrs[60]] == pytest.approx([0.4] * 3)


def test_milestones_are_counted_from_the_start_of_the_run() -> None:
    lrs = table(build("multistep", warmup_epochs=3, milestones=[4, 6]))
    assert [lrs[19], *lrs[20:22], *lrs[29:31]] == pytest.approx([0.4, 0.04, 0.04, 0.04, 0.004])
    assert lrs[:15] == pytest.approx([0.4 * (k + 1) / 16 for k in range(15)])
    lrs = table(build("step", warmup_epochs=3, step_epochs=4))
    assert [lrs[19], lrs[20], lrs[40]] == pytest.approx([0.4, 0.04, 0.004])


@pytest.mark.parametrize(
    ("name", "settings"),
    [("multistep", {"milestones": [2, 6]}), ("step", {"step_epochs": 2}), ("step", {})],
)
def test_a_drop_within_the_warmup_is_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="epochs of warmup"):
        create(name, sgd(1.0), epochs=8, steps_per_epoch=5, warmup_epochs=3, **settings)


def test_baseline_rises_linearly_and_falls_as_a_cosine() -> None:
    # 2 steps of warmup (1/3, 2/3), then (1 + cos(pi * k / 4)) / 2 for k = 0..4.
    schedule = build("warmup_cosine", sgd(1.0), epochs=3, steps_per_epoch=2, warmup_epochs=1)
    expected = [1 / 3, 2 / 3, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0]
    assert table(schedule, 6) == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(30, 30), (50, 50), (200, 50), (1, 1)])
def test_baseline_warms_up_for_a_tenth_of_the_epochs_but_at_most_five(
    epochs: int, warmup_steps: int
) -> None:
    schedule = build("warmup_cosine", epochs=epochs, steps_per_epoch=10)
    assert schedule.switch_step is None
    lrs = table(schedule, epochs * 10)
    assert lrs.index(max(lrs)) == schedule.switch_step == warmup_steps
    assert schedule.phase is Phase.DECAY


@pytest.mark.parametrize("name", ["cosine", "constant", "multistep", "plateau"])
def test_without_a_warmup_the_decay_begins_at_once(name: str) -> None:
    schedule = build(name)
    assert (schedule.phase, schedule.switch_step) == (Phase.DECAY, 0)
    assert schedule.start_lr == 0.4


def test_a_one_cycle_is_in_its_warmup_until_its_peak() -> None:
    schedule = build("onecycle", steps_per_epoch=10, epochs=10)  # peak at 0.3 * 101 - 1 = 29.3
    lrs = table(schedule, 100)
    assert lrs.index(max(lrs)) == 30  # the whole step that is nearest to it in LR
    assert (schedule.switch_step, schedule.start_lr) == (30, 0.4)


# --- scaling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["warmup_cosine", "cosine", "constant", "multistep", "step", "exponential", "linear",
             "polynomial", "inverse_sqrt", "onecycle", "cosine_restarts", "plateau", "wsd"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("rule", "batch_size", "factor"),
    [("none", 64, 1.0), ("linear", 64, 0.25), ("sqrt", 64, 0.5), ("linear", 256, 1.0),
     ("linear", 1024, 4.0), ("sqrt", 1024, 2.0)],
)  # fmt: skip
def test_scaling_multiplies_start_and_end_alike(
    name: str, rule: str, batch_size: int, factor: float
) -> None:
    plain = table(build(name))
    schedule = build(name, scale_lr=rule, batch_size=batch_size)
    assert table(schedule) == pytest.approx([factor * lr for lr in plain])
    assert schedule.start_lr == pytest.approx(factor * 0.4)


def test_scaling_is_relative_to_the_base_batch_size() -> None:
    schedule = build("constant", scale_lr="linear", batch_size=1024, base_batch_size=512)
    assert schedule.get_last_lr() == [0.8]


def test_scaling_a_composite_keeps_the_start_of_its_warmup_or_drops_it() -> None:
    def lrs(batch_size: int) -> list[float]:
        return table(
            build("composite", curves=RAMP_AND_WAVE, scale_lr="linear", batch_size=batch_size)
        )

    above = lrs(512)
    assert above[0] == pytest.approx(0.04)  # 0.1 of the peak for the base batch
    assert above[12] == pytest.approx(0.8)
    for batch_size, peak in ((256, 0.4), (64, 0.1)):
        expected = [peak * (1 + math.cos(math.pi * k / 60)) / 2 for k in range(61)]
        assert lrs(batch_size) == pytest.approx(expected, abs=1e-15)


# --- composite, plateau, range tests, AutoWU ----------------------------------------------------


def test_a_composite_knows_the_end_of_its_leading_ramp() -> None:
    schedule = build("composite", curves=RAMP_AND_WAVE)
    lrs = table(schedule)
    expected = [0.04 + 0.36 * k / 12 for k in range(12)]
    expected += [0.2 * (1 + math.cos(math.pi * k / 48)) for k in range(49)]
    assert lrs == pytest.approx(expected, abs=1e-15)
    assert (schedule.switch_step, schedule.start_lr) == (12, 0.4)
    flat = build("composite", curves=[{"name": "constant", "length": 1, "start": 0.5}])
    assert (flat.switch_step, flat.start_lr) == (0, 0.2)


def test_a_composite_may_change_every_epoch() -> None:
    lrs = table(build("composite", curves=RAMP_AND_WAVE, update="epoch"))
    for step, lr in enumerate(lrs):
        assert lr == lrs[step // STEPS * STEPS]
    # 12 epochs: the ramp has 2.4 of them.
    assert lrs[5] == pytest.approx(0.4 * (0.1 + 0.9 / 2.4))
    assert lrs[15] == pytest.approx(0.2 * (1 + math.cos(math.pi * 0.6 / 9.6)))


LOSSES = [5.0, 4.0, 4.0, 4.0, 3.9999, 3.0, math.nan, 3.0, 3.1, 3.2, 2.0, 2.5, 2.5, 2.5, 1.0] + [
    1.0
] * 20


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("min_lr", [0.0, 0.01])
@pytest.mark.parametrize("threshold", [1e-4, 0.1])
def test_plateau_drops_when_torchs_does(
    patience: int, cooldown: int, min_lr: float, threshold: float
) -> None:
    rules: dict[str, Any] = {
        "factor": 0.5, "patience": patience, "cooldown": cooldown, "min_lr": min_lr,
        "threshold": threshold,
    }  # fmt: skip
    groups = [{"lr": 0.4}, {"lr": 0.02}, {"lr": 0.005}]  # the last is below min_lr
    ours, theirs = sgd(0.4, *groups), sgd(0.4, *groups)
    schedule = build("plateau", ours, epochs=len(LOSSES), steps_per_epoch=2, **rules)
    torchs = lr_scheduler.ReduceLROnPlateau(theirs, **rules, eps=0.0)
    for loss in LOSSES:
        for _ in range(2):
            ours.step()
            schedule.step(torch.tensor(loss))
        schedule.end_epoch(loss)
        torchs.step(loss)
        assert schedule.get_last_lr() == pytest.approx(torchs.get_last_lr(), rel=1e-12)
        assert [group["lr"] for group in ours.param_groups] == schedule.get_last_lr()


def test_plateau_does_not_look_at_the_epochs_of_its_warmup() -> None:
    schedule = build("plateau", warmup_epochs=2, patience=0)
    for epoch in range(4):
        table(schedule, STEPS)
        schedule.end_epoch([1.0, 2.0, 9.0, 9.0][epoch])
        assert schedule.num_drops == max(0, epoch - 2)
    assert schedule.get_last_lr() == [pytest.approx(0.04)]


@pytest.mark.parametrize("growth", ["exponential", "linear"])
def test_a_range_test_sweeps_absolute_lrs_and_keeps_the_ratios(growth: str) -> None:
    optimizer = sgd(0.4, {"lr": 0.4}, {"lr": 0.1})
    schedule = build(
        "lr_range_test", optimizer, min_lr=1e-4, max_lr=1.0, num_steps=5, growth=growth
    )
    expected = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    if growth == "linear":
        expected = [1e-4 + k * (1 - 1e-4) / 4 for k in range(5)]
    assert table(schedule, 5) == pytest.approx([*expected, 1.0])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.25)
    assert isinstance(schedule, PhasedCurve)


def test_the_peak_of_a_late_one_cycle_is_told_before_its_first_step() -> None:
    schedule = build("range_test_onecycle", sgd(0.4, {"lr": 0.4}, {"lr": 0.1}))
    assert isinstance(schedule, LateOneCycle)
    assert not schedule.peak_is_known and schedule.start_lr is None
    assert schedule.get_last_lr() == [0.4, 0.1]  # as they were
    with pytest.raises(ValueError, match=r"call set_peak\(lr\) before step\(\)"):
        schedule.step(torch.tensor(1.0))
    for lr in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"must be positive and finite, got {lr}"):
            schedule.set_peak(lr)
    schedule.set_peak(2.0)
    assert schedule.peak_is_known
    expected = table_of_torch(
        lambda opt: lr_scheduler.OneCycleLR(opt, 2.0, 61, cycle_momentum=False)
    )
    assert table(schedule) == pytest.approx(expected, rel=1e-9)
    assert schedule.start_lr == 2.0
    first, second = (group["lr"] for group in schedule.optimizer.param_groups)
    assert second == pytest.approx(0.25 * first)


def test_a_resumed_late_one_cycle_knows_whether_its_peak_was_told() -> None:
    schedule = build("range_test_onecycle")
    resumed = build("range_test_onecycle")
    resumed.load_state_dict(schedule.state_dict())
    assert not resumed.peak_is_known
    schedule.set_peak(0.5)
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.peak_lr == 0.5
    assert resumed.get_last_lr() == [0.5 / 25]


def test_autowu_takes_its_settings_as_keywords() -> None:
    schedule = build("autowu", min_lr=0.125, decay="wsd_linear", cooldown_fraction=0.3)
    assert isinstance(schedule, AutoWU)
    assert schedule.get_last_lr() == [0.125]
    assert schedule.settings.steps_per_epoch == STEPS
    assert schedule.settings.total_steps == EPOCHS * STEPS
    with pytest.raises(ValueError, match=r"epochs=1: makes 1 optimizer step of data.batch_size=64"):
        build("autowu", epochs=1, steps_per_epoch=1, batch_size=64)

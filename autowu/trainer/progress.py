"""How far a run has come, and the line of metrics.jsonl that an epoch adds."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from autowu.trainer.schedules import Schedule


@dataclass
class Progress:
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done, those that the scaler skipped included
    epoch_losses: list[float] = field(default_factory=list)  # of the epoch under way, so far
    last_lr: float = 0.0  # of the last step
    gradient_norm: float | None = None  # L2, at the last step of the epoch, once that is done
    # L2 norms of each parameter and of its gradient at that step, if they are measured.
    layer_norms: dict[str, dict[str, float]] | None = None
    tests_reported: int = 0  # of the scheduler's tests, in the lines of the epochs so far
    skipped_steps: int = 0  # left out by the scaler because the gradient was not finite
    skipped_in_a_row: int = 0
    test_accuracy: float = 0.0  # % after the last epoch
    best_test_accuracy: float = 0.0  # % after the best epoch
    best_epoch: int = 0  # 0: none yet
    ema_test_accuracy: float | None = None  # % after the last epoch, of the average of the weights
    epoch_seconds: float = 0.0  # of the epoch under way, spent on optimizer steps
    epoch_wait_seconds: float = 0.0  # of those, spent waiting for data
    begun_by: list[str] = field(default_factory=list)  # the job that `resume=never` was given to
    commits: list[str] = field(default_factory=list)  # of the code, one after the other
    train_seconds: float = 0.0  # spent on optimizer steps, over all sessions
    seconds: float = 0.0  # the evaluations included

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Progress":
        """What `asdict` wrote, of an earlier version, too; ValueError for something else."""
        progress = cls(**saved)
        missing = {"epoch", "step", "epoch_losses"} - saved.keys()
        if missing:
            raise ValueError(f"progress without {', '.join(sorted(missing))}")
        for name, default in vars(cls()).items():
            value = getattr(progress, name)
            kind = (int, float) if isinstance(default, float) else type(default)
            if default is not None and not isinstance(value, kind):
                raise ValueError(f"progress.{name} is {value!r}")
        if not all(isinstance(loss, float) for loss in progress.epoch_losses):
            raise ValueError("progress.epoch_losses are not numbers")
        if min(progress.epoch, progress.step) < 0:
            raise ValueError(f"progress to epoch {progress.epoch}, step {progress.step}")
        return progress

    @property
    def epoch_step(self) -> int:
        """Steps done of the epoch under way."""
        return len(self.epoch_losses)

    def count(self, skipped: bool) -> None:
        """Note whether the scaler left the step out."""
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def note_commit(self, commit: str | None) -> None:
        """Remember what code trains from here on; `unknown` did before such a note was made."""
        if self.step > 0 and not self.commits:
            self.commits.append("unknown")
        if commit is not None and self.commits[-1:] != [commit]:
            self.commits.append(commit)

    def note_norms(
        self, gradient_norm: Tensor, layer_norms: dict[str, tuple[Tensor, Tensor]] | None
    ) -> None:
        """Keep what the last step of the epoch measured, for its line of metrics.jsonl."""
        self.gradient_norm = float(gradient_norm)
        if layer_norms is not None:
            self.layer_norms = {
                name: {"weight": float(weight), "gradient": float(gradient)}
                for name, (weight, gradient) in layer_norms.items()
            }

    def epoch_done(
        self,
        *,
        test_accuracy: float,
        evaluation_seconds: float,
        ema_test_accuracy: float | None = None,
        scheduler: Schedule,
        restored_step: int | None,
        batch_size: int,
        gpu_memory: float | None,
    ) -> dict[str, Any]:
        """Count one epoch.

        Args:
            test_accuracy: after it, in %.
            evaluation_seconds: that this took.
            ema_test_accuracy: of the moving average of the weights, in %; None: there is none.
            scheduler: after the epoch.
            restored_step: of the snapshot that the divergence guard put back, if it did.
            batch_size: images per optimizer step.
            gpu_memory: largest so far, GiB; None on a CPU.

        Returns:
            Its line of metrics.jsonl; what depends on the machine is under `timing`.
        """
        num_steps = self.epoch_step
        tests = [asdict(test) for test in scheduler.tests[self.tests_reported :]]
        self.tests_reported += len(tests)
        self.epoch += 1
        self.test_accuracy = test_accuracy
        if self.best_epoch == 0 or test_accuracy > self.best_test_accuracy:
            self.best_test_accuracy, self.best_epoch = test_accuracy, self.epoch
        self.seconds += evaluation_seconds
        metrics: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "scheduler_step": scheduler.last_epoch,  # without skipped ones, as steps of tests are
            "train_loss": math.fsum(self.epoch_losses) / num_steps,
            "test_accuracy": test_accuracy,
            "lr": self.last_lr,
            "gradient_norm": self.gradient_norm,
            "phase": scheduler.phase.name.lower(),
            "skipped_steps": self.skipped_steps,
            "restored_step": restored_step,
            "tests": tests,
            "timing": {
                "seconds": self.epoch_seconds + evaluation_seconds,
                "images_per_second": num_steps * batch_size / self.epoch_seconds,
                "data_wait": self.epoch_wait_seconds / self.epoch_seconds,
                "gpu_memory_gib": gpu_memory,
            },
        }
        if ema_test_accuracy is not None:
            self.ema_test_accuracy = metrics["ema_test_accuracy"] = ema_test_accuracy
        if self.layer_norms is not None:
            metrics["layer_norms"] = self.layer_norms
        self.gradient_norm = self.layer_norms = None
        self.epoch_losses = []
        self.epoch_seconds = self.epoch_wait_seconds = 0.0
        return metrics

"""How far a run has come, and the line of metrics.jsonl that an epoch adds."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from autowu.trainer.build_schedule import Schedule
from autowu.trainer.loop import EpochTrace


@dataclass
class Progress:
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    test_accuracy: float = 0.0  # % after the last epoch
    best_test_accuracy: float = 0.0  # % after the best epoch
    best_epoch: int = 0  # 0: none yet
    train_seconds: float = 0.0  # spent on optimizer steps, over all sessions
    seconds: float = 0.0  # spent on epochs, evaluation included, over all sessions

    def epoch_done(
        self,
        trace: EpochTrace,
        test_accuracy: float,
        scheduler: Schedule,
        batch_size: int,
        started: float,
    ) -> dict[str, Any]:
        """Count one epoch.

        Args:
            trace: of its optimizer steps.
            test_accuracy: after it, in %.
            scheduler: after it.
            batch_size: images per optimizer step.
            started: `time.perf_counter()` at its beginning.

        Returns:
            Its line of metrics.jsonl; what depends on the clock is under `timing`.
        """
        num_steps = len(trace.losses)
        tests = [asdict(test) for test in scheduler.tests if test.step > self.step]
        seconds = time.perf_counter() - started
        self.epoch += 1
        self.step += num_steps
        self.test_accuracy = test_accuracy
        if self.best_epoch == 0 or test_accuracy > self.best_test_accuracy:
            self.best_test_accuracy, self.best_epoch = test_accuracy, self.epoch
        self.train_seconds += trace.seconds
        self.seconds += seconds
        return {
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": math.fsum(trace.losses) / num_steps,
            "test_accuracy": test_accuracy,
            "lr": trace.lrs[-1],
            "phase": scheduler.phase.name.lower(),
            "tests": tests,
            "timing": {
                "seconds": seconds,
                "images_per_second": num_steps * batch_size / trace.seconds,
            },
        }

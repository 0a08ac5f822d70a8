"""What the adapters refuse when a run resumes, with one message for all of them."""

from autowu.settings import SchedulerSettings


def check_same_settings(loaded: SchedulerSettings, wanted: SchedulerSettings) -> None:
    """Refuse a state of other settings: the LR of a longer run would be 0 where the old one ended.

    Raises:
        ValueError: naming the first setting that differs.
    """
    old, new = loaded.as_dict(), wanted.as_dict()
    for name in old:
        if old[name] != new[name]:
            raise ValueError(
                f"the checkpoint is that of a run with {name}={old[name]!r}, and this one has "
                f"{new[name]!r}: AutoWU resumes with the same settings and the same length alone"
            )

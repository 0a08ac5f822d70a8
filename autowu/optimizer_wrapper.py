"""What an optimizer around another one leaves to that one."""

from typing import Any

from torch.optim import Optimizer


class OptimizerWrapper(Optimizer):
    """Groups are added to the base optimizer, gradients cleared by it, its public attributes shown.

    A subclass gives `base_optimizer`, and sets up torch's hooks by `__setstate__`:
    `Optimizer.__init__` would make groups of its own, and is not called.
    """

    base_optimizer: Optimizer

    def __getattr__(self, name: str) -> Any:
        # Not the private ones: GradScaler and torch.compile ask for them and mean this object.
        if name.startswith("_") or name == "base_optimizer":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.base_optimizer, name)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base_optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base_optimizer.zero_grad(set_to_none)

    def register_state_dict_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_optimizer.register_state_dict_pre_hook(*args, **kwargs)

    def register_state_dict_post_hook(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_optimizer.register_state_dict_post_hook(*args, **kwargs)

    def register_load_state_dict_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_optimizer.register_load_state_dict_pre_hook(*args, **kwargs)

    def register_load_state_dict_post_hook(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_optimizer.register_load_state_dict_post_hook(*args, **kwargs)

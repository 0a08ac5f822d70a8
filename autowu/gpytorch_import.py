"""GPyTorch, imported without the warning that it has for its own authors.

linear_operator, a part of it, says at its import that `torch.jit.script` is deprecated; no user of
AutoWU can act on it. Whoever here needs GPyTorch takes it from this module.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    import gpytorch
    from linear_operator.utils.errors import NanError, NotPSDError

__all__ = ["NanError", "NotPSDError", "gpytorch"]

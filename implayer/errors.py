"""Errors and warnings. Each is an `ImplayerError` and the matching built-in; those of a solve carry its `Solution`."""

import pickle
from typing import Any


class ImplayerError(Exception):
    """Top of all errors that implayer raises by itself."""


class SolveError(ImplayerError, RuntimeError):
    """A solve did not succeed for at least one sample.

    **Attributes**

    - `solution`: the `Solution` with value, status, residual norm and steps of every sample.
    """

    def __init__(self, message: str, solution: Any = None):
        super().__init__(message)
        self.solution = solution


class SingularJacobianError(SolveError):
    """dF/dy is singular at the solution of a sample, so the implicit derivative does not exist there."""


class InfeasibleError(SolveError):
    """No point satisfies the constraints of a sample."""


class UnboundedError(SolveError):
    """The objective of a sample has no lower bound on its feasible set."""


class AdjointError(SolveError):
    """The linear solve of the derivative did not reach its tolerance."""


class DegenerateEigenvalueError(SolveError):
    """A loss depends on the basis that was chosen inside a cluster of eigenvalues, where vectors are not unique."""


class NoSurfaceError(SolveError):
    """The field of a sample does not cross the level, so there is no surface; `.solution.value` is None."""


class NotSymmetricError(ImplayerError, ValueError):
    """A matrix that has to be symmetric is not; raised under every policy for failures."""


class NotDefiniteError(ImplayerError, ValueError):
    """A matrix that has to be positive definite is not; raised under every policy for failures."""


class DeflationError(ImplayerError, ValueError):
    """Vectors that are said to be known eigenvectors are not."""


class NotConvexError(ImplayerError, ValueError):
    """A problem that has to be convex is not; raised under every policy for failures."""


class ShapeError(ImplayerError, ValueError):
    """A tensor has another shape than the rest of the call implies."""


class DeviceError(ImplayerError, ValueError):
    """Tensors of one call live on several devices."""


class DtypeError(ImplayerError, TypeError):
    """A tensor has another dtype than the rest of the call implies."""


class ClosureError(ImplayerError, ValueError):
    """F uses a tensor in a way in which its derivative would be lost."""


class BatchCouplingError(ImplayerError, ValueError):
    """F mixes the samples of a batch."""


class RandomResidualError(ImplayerError, ValueError):
    """F gives two answers for one input (dropout, noise), so F(x, y) = 0 defines nothing."""


class NotPicklableError(ImplayerError, pickle.PicklingError):
    """A layer holds a function that pickle cannot find by its name."""


class OrderError(ImplayerError, RuntimeError):
    """A derivative of higher order than the adjoint makes exact was asked for."""


class VerificationError(ImplayerError, AssertionError):
    """A property of a layer failed.

    **Attributes**

    - `report`: the `Report` with all that was tried.
    """

    def __init__(self, message: str, report: Any = None):
        super().__init__(message)
        self.report = report


class SolveWarning(UserWarning):
    """A solve did not succeed for at least one sample, and `on_failure="warn"` was chosen."""


class IllConditionedWarning(SolveWarning):
    """dF/dy is so badly conditioned that few digits of the derivative can be trusted."""


class DegenerateWarning(SolveWarning):
    """The solution is valid, but its derivative is one-sided or not unique."""

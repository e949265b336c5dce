"""Forward solvers: callables from a `Problem` to a `Solution`."""

from .anderson import Anderson
from .base import AbstractIterativeSolver
from .bisection import Bisection
from .broyden import Broyden
from .levenberg_marquardt import LevenbergMarquardt
from .newton import Newton
from .picard import Picard
from .qp import QPSolver
from .scipy_root import ScipyRoot

__all__ = [
    "AbstractIterativeSolver",
    "Anderson",
    "Bisection",
    "Broyden",
    "LevenbergMarquardt",
    "Newton",
    "Picard",
    "QPSolver",
    "ScipyRoot",
]

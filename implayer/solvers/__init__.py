"""Forward solvers: callables from a `Problem` to a `Solution`."""

from .anderson import Anderson
from .base import AbstractIterativeSolver
from .bisection import Bisection
from .broyden import Broyden
from .interior_point import InteriorPoint
from .levenberg_marquardt import LevenbergMarquardt
from .newton import Newton
from .picard import Picard
from .qp import QPSolver
from .scipy_minimize import ScipyMinimize
from .scipy_root import ScipyRoot

__all__ = [
    "AbstractIterativeSolver",
    "Anderson",
    "Bisection",
    "Broyden",
    "InteriorPoint",
    "LevenbergMarquardt",
    "Newton",
    "Picard",
    "QPSolver",
    "ScipyMinimize",
    "ScipyRoot",
]

"""implayer: PyTorch layers defined by an equation F(x, y) = 0, with gradients that can be verified.

The words on this page are the public ones.
"""

from . import verify
from .adjoints import ImplicitAdjoint, JacobianFree, PhantomAdjoint, UnrolledAdjoint
from .errors import (
    AdjointError,
    BatchCouplingError,
    ClosureError,
    DegenerateWarning,
    DeviceError,
    DtypeError,
    IllConditionedWarning,
    ImplayerError,
    InfeasibleError,
    NotConvexError,
    NotPicklableError,
    OrderError,
    RandomResidualError,
    ShapeError,
    SingularJacobianError,
    SolveError,
    SolveWarning,
    UnboundedError,
    VerificationError,
)
from .layer import ImplicitLayer
from .layers.argmin import ArgminLayer
from .layers.cvxpy_layer import CvxpyLayer
from .layers.fixed_point import FixedPointLayer
from .layers.qp import QPLayer
from .layers.spectral import spectral_norm
from .linear import CG, GMRES, LSMR, LU, MINRES, Auto, BiCGSTAB, Cholesky, Neumann
from .operators import JacobianOperator, MatrixOperator
from .problem import Problem
from .solution import Solution, Status
from .solvers import (
    Anderson,
    Bisection,
    Broyden,
    InteriorPoint,
    LevenbergMarquardt,
    Newton,
    Picard,
    QPSolver,
    ScipyMinimize,
    ScipyRoot,
)

__version__ = "0.1.0"

__all__ = [
    "CG",
    "GMRES",
    "LSMR",
    "LU",
    "MINRES",
    "AdjointError",
    "Anderson",
    "ArgminLayer",
    "Auto",
    "BatchCouplingError",
    "BiCGSTAB",
    "Bisection",
    "Broyden",
    "Cholesky",
    "ClosureError",
    "CvxpyLayer",
    "DegenerateWarning",
    "DeviceError",
    "DtypeError",
    "FixedPointLayer",
    "IllConditionedWarning",
    "ImplayerError",
    "ImplicitAdjoint",
    "ImplicitLayer",
    "InfeasibleError",
    "InteriorPoint",
    "JacobianFree",
    "JacobianOperator",
    "LevenbergMarquardt",
    "MatrixOperator",
    "Neumann",
    "Newton",
    "NotConvexError",
    "NotPicklableError",
    "OrderError",
    "PhantomAdjoint",
    "Picard",
    "Problem",
    "QPLayer",
    "QPSolver",
    "RandomResidualError",
    "ScipyMinimize",
    "ScipyRoot",
    "ShapeError",
    "SingularJacobianError",
    "Solution",
    "SolveError",
    "SolveWarning",
    "Status",
    "UnboundedError",
    "UnrolledAdjoint",
    "VerificationError",
    "spectral_norm",
    "verify",
]

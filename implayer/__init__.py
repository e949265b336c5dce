"""implayer: PyTorch layers defined by an equation F(x, y) = 0, with gradients that can be verified.

The words on this page are the public ones.
"""

from . import verify
from .adjoints import ImplicitAdjoint, JacobianFree, PhantomAdjoint, UnrolledAdjoint
from .errors import (
    AdjointError,
    BatchCouplingError,
    ClosureError,
    DeflationError,
    DegenerateEigenvalueError,
    DegenerateWarning,
    DeviceError,
    DtypeError,
    IllConditionedWarning,
    ImplayerError,
    InfeasibleError,
    NoSurfaceError,
    NotConvexError,
    NotDefiniteError,
    NotPicklableError,
    NotSymmetricError,
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
from .layers.affinity import Affinity
from .layers.argmin import ArgminLayer
from .layers.bistochastic import BistochasticLayer
from .layers.cvxpy_layer import CvxpyLayer
from .layers.eigen import EigenLayer
from .layers.eigen_dense import Clusters
from .layers.eigen_general import NonsymmetricEigenLayer, ProjectedEigenLayer, SingularLayer
from .layers.fixed_point import FixedPointLayer
from .layers.level_set import LevelSetLayer
from .layers.matching import PowerIterationLayer, SpectralMatchingLayer
from .layers.qp import QPLayer
from .layers.ray import GridField, ProjectionLayer, RayLayer
from .layers.spectral import spectral_norm
from .layers.surface import Surface
from .layers.surface_file import MeshFileError
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
from .solvers.eigen import Lapack
from .solvers.eigen_sparse import LOBPCG, ShiftInvert

__version__ = "0.1.0"

__all__ = [
    "CG",
    "GMRES",
    "LOBPCG",
    "LSMR",
    "LU",
    "MINRES",
    "AdjointError",
    "Affinity",
    "Anderson",
    "ArgminLayer",
    "Auto",
    "BatchCouplingError",
    "BiCGSTAB",
    "Bisection",
    "BistochasticLayer",
    "Broyden",
    "Cholesky",
    "ClosureError",
    "Clusters",
    "CvxpyLayer",
    "DeflationError",
    "DegenerateEigenvalueError",
    "DegenerateWarning",
    "DeviceError",
    "DtypeError",
    "EigenLayer",
    "FixedPointLayer",
    "GridField",
    "IllConditionedWarning",
    "ImplayerError",
    "ImplicitAdjoint",
    "ImplicitLayer",
    "InfeasibleError",
    "InteriorPoint",
    "JacobianFree",
    "JacobianOperator",
    "Lapack",
    "LevelSetLayer",
    "LevenbergMarquardt",
    "MatrixOperator",
    "MeshFileError",
    "Neumann",
    "Newton",
    "NoSurfaceError",
    "NonsymmetricEigenLayer",
    "NotConvexError",
    "NotDefiniteError",
    "NotPicklableError",
    "NotSymmetricError",
    "OrderError",
    "PhantomAdjoint",
    "Picard",
    "PowerIterationLayer",
    "Problem",
    "ProjectedEigenLayer",
    "ProjectionLayer",
    "QPLayer",
    "QPSolver",
    "RandomResidualError",
    "RayLayer",
    "ScipyMinimize",
    "ScipyRoot",
    "ShapeError",
    "ShiftInvert",
    "SingularJacobianError",
    "SingularLayer",
    "Solution",
    "SolveError",
    "SolveWarning",
    "SpectralMatchingLayer",
    "Status",
    "Surface",
    "UnboundedError",
    "UnrolledAdjoint",
    "VerificationError",
    "spectral_norm",
    "verify",
]

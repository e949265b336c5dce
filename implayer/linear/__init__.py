"""Linear solvers: each freezes a Jacobian into an inverse, a pair of solves."""

from .auto import Auto
from .base import AbstractDenseInverse, AbstractInverse, AbstractLinearSolver, LinearReport, default_tolerance
from .bicgstab import BiCGSTAB
from .cg import CG
from .cholesky import Cholesky
from .diagonal import Diagonal
from .gmres import GMRES
from .krylov import AbstractKrylovSolver
from .lsmr import LSMR
from .lu import LU
from .minres import MINRES
from .neumann import Neumann
from .pseudo_inverse import PseudoInverse
from .refined import Refined

__all__ = [
    "CG",
    "GMRES",
    "LSMR",
    "LU",
    "MINRES",
    "AbstractDenseInverse",
    "AbstractInverse",
    "AbstractKrylovSolver",
    "AbstractLinearSolver",
    "Auto",
    "BiCGSTAB",
    "Cholesky",
    "Diagonal",
    "LinearReport",
    "Neumann",
    "PseudoInverse",
    "Refined",
    "default_tolerance",
]

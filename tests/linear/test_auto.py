import torch

from implayer.linear import GMRES, LSMR, LU, Auto, BiCGSTAB, Diagonal, PseudoInverse
from implayer.operators import MatrixOperator
from implayer.solution import Status

from .systems import CountingOperator, near_identity, relative_error, right_hand_side, tanh_operator, times


class Huge(MatrixOperator):
    """Pretends to have many samples: nothing of it may be materialised."""

    def __init__(self, samples, n):
        super().__init__(near_identity(0, 1, 2))
        self.samples, self.rows, self.columns = samples, n, n

    def rmv(self, u):
        return u.roll(1, -1)


def test_chooses_by_shape_and_size():
    square, wide = MatrixOperator(near_identity(0, 2, 8)), MatrixOperator(torch.ones(2, 3, 5))
    assert isinstance(Auto().choose(square), LU)
    assert isinstance(Auto().choose(wide), PseudoInverse)
    assert isinstance(Auto(dense_limit=4).choose(square), GMRES)
    assert isinstance(Auto(dense_limit=4).choose(wide), LSMR)
    assert isinstance(Auto(memory_limit=1000).choose(square), BiCGSTAB)
    assert isinstance(Auto().choose(Huge(1, 600)), GMRES)
    assert isinstance(Auto().choose(Huge(1000, 512)), GMRES)  # 6 GB of Jacobians
    assert isinstance(Auto(memory_limit=2**20).choose(Huge(100, 600)), BiCGSTAB)


def test_options_reach_the_matrix_free_solvers():
    chosen = Auto(dense_limit=0, rtol=1e-3, max_steps=7).choose(MatrixOperator(near_identity(0, 1, 4)))
    assert chosen == GMRES(rtol=1e-3, max_steps=7)


def test_finds_a_diagonal_jacobian_without_materialising_it():
    operator = CountingOperator(torch.diag_embed(torch.linspace(1, 2, 40).repeat(3, 1)))
    assert isinstance(Auto().choose(operator), Diagonal)
    assert operator.products["materialise"] == 0
    dense = CountingOperator(near_identity(0, 3, 40))
    assert isinstance(Auto().choose(dense), LU)
    assert dense.products == {"mv": 0, "rmv": 1, "materialise": 0}
    small = CountingOperator(near_identity(0, 3, 8))
    assert isinstance(Auto().choose(small), LU)
    assert small.products == {"mv": 0, "rmv": 0, "materialise": 0}


def test_every_choice_solves():
    operator, matrix = tanh_operator(0, 3, 40)
    c = right_hand_side(0, 3, 40)
    exact = times(torch.linalg.inv(matrix.mT), c)
    for solver in (Auto(), Auto(dense_limit=0), Auto(dense_limit=0, memory_limit=0)):
        x, report = solver.freeze(operator).rsolve(c)
        assert relative_error(x, exact) < 1e-7
        assert report.status.tolist() == [Status.CONVERGED] * 3

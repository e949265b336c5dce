"""R10: as many equations as unknowns are not there. A solver that needs them says so and names the alternative."""

import pytest
import torch

import implayer


def wide(x, y):
    return y.sum(-1, keepdim=True) - x


def tall(x, y):
    return torch.cat([y - x, y + x, 2 * y], -1)


@pytest.mark.parametrize("solver", [implayer.Picard(), implayer.Anderson(), implayer.Broyden()])
@pytest.mark.parametrize(("F", "rows"), [(wide, 1), (tall, 6)])
def test_square_solvers_say_so(solver, F, rows):
    layer = implayer.ImplicitLayer(F, solver)
    said = f"`{type(solver).__name__}`.*as many equations as unknowns.*{rows} for 2.*LevenbergMarquardt"
    with pytest.raises(implayer.ShapeError, match=said):
        layer(torch.ones(3, 1), torch.ones(3, 2))


def test_newton_takes_wide_but_not_tall():
    y = implayer.ImplicitLayer(wide, implayer.Newton())(torch.ones(3, 1), torch.zeros(3, 2))
    torch.testing.assert_close(y, torch.full((3, 2), 0.5))
    with pytest.raises(implayer.ShapeError, match="LevenbergMarquardt"):
        implayer.ImplicitLayer(tall, implayer.Newton())(torch.ones(3, 1), torch.ones(3, 2))


def test_least_squares_is_one_word_away():
    y = implayer.ImplicitLayer(tall, implayer.LevenbergMarquardt())(torch.ones(3, 1), torch.ones(3, 2))
    torch.testing.assert_close(y, torch.zeros(3, 2), atol=1e-8, rtol=0)


@pytest.mark.parametrize("linear_solver", [implayer.LU(), implayer.Cholesky(), implayer.GMRES(), implayer.CG()])
def test_square_linear_solvers_say_so(linear_solver):
    x = torch.ones(3, 1, requires_grad=True)
    layer = implayer.ImplicitLayer(
        wide, implayer.Newton(), adjoint=implayer.ImplicitAdjoint(linear_solver=linear_solver)
    )
    with pytest.raises(implayer.ShapeError, match=f"`{type(linear_solver).__name__}`.*1 rows for 2 unknowns"):
        layer(x, torch.zeros(3, 2)).sum().backward()

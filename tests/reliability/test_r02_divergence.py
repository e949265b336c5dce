"""R2: the map diverges (z = 3 z + x), where a peer returns z = 4 and gradient 1 without a word."""

import pytest
import torch

import implayer


def expanding(x, y):
    return 3 * y + x


def test_divergence_is_said_within_the_limit():
    layer = implayer.FixedPointLayer(expanding, implayer.Picard(max_steps=1000), initial=torch.zeros_like)
    with pytest.raises(implayer.SolveError, match="diverged") as caught:
        layer(torch.ones(2, 1))
    solution = caught.value.solution
    assert (solution.status == implayer.Status.MAX_STEPS).all()
    assert (solution.steps < 100).all()
    assert solution.residual_norm.isfinite().all() and solution.value.isfinite().all()
    assert solution.aux["diverged"].all()
    torch.testing.assert_close(solution.aux["contraction"], torch.full((2,), 3.0))


def test_the_message_offers_the_other_sign():
    layer = implayer.ImplicitLayer(lambda x, y: 3 * y - x, implayer.Picard(damping=0.1), initial=torch.ones_like)
    with pytest.raises(implayer.SolveError, match="sign=-1"):
        layer(torch.ones(1, 1))
    layer = implayer.ImplicitLayer(
        lambda x, y: 3 * y - x, implayer.Picard(damping=0.1), initial=torch.ones_like, sign=-1
    )
    torch.testing.assert_close(layer(torch.ones(1, 1)), torch.full((1, 1), 1 / 3))


@pytest.mark.parametrize("solver", [implayer.Anderson(), implayer.Newton(), implayer.Broyden()])
def test_solvers_that_need_no_contraction_find_the_point(solver):
    x = torch.ones(1, 1, requires_grad=True)
    y = implayer.FixedPointLayer(expanding, solver, initial=torch.zeros_like)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close((y.item(), gradient.item()), (-0.5, -0.5), rtol=1e-8, atol=1e-8)

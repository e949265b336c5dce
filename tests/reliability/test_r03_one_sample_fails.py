"""R3: one sample of a batch fails. The others keep value and gradient, also those of shared leaves and parameters."""

import pytest
import torch

import implayer

BAD = {"no root": -1.0, "nan": float("nan"), "infinite": float("inf")}


class Residual(torch.nn.Module):
    """w y^2 + s - x, with a parameter w and a shared leaf s."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x, y):
        return self.w * y**2 + x["shared"] - x["own"]


def gradients(own, on_failure, cotangent=None, index=slice(None)):
    F = Residual()
    layer = implayer.ImplicitLayer(
        F, implayer.Newton(), initial=lambda x: torch.ones_like(x["own"]), on_failure=on_failure
    )
    own, shared = own.clone().requires_grad_(), torch.tensor([0.1, 0.2], requires_grad=True)
    solution = layer.solve({"own": own, "shared": shared})
    loss = solution.value[index].sum() if cotangent is None else (cotangent * solution.value).nansum()
    return solution, torch.autograd.grad(loss, [own, shared, F.w])


@pytest.mark.parametrize("on_failure", ["warn", "nan", "ignore"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore::implayer.SolveWarning")
def test_the_others_keep_value_and_gradient(bad, on_failure):
    own = torch.tensor([[1.0, 2.0], [1.0, bad], [4.0, 5.0]])
    good = [0, 2]
    alone, (alone_own, *alone_shared) = gradients(own[good], "raise")
    solution, (own_gradient, *shared_gradients) = gradients(own, on_failure, index=good)
    assert solution.converged.tolist() == [True, False, True]
    torch.testing.assert_close(solution.value[good], alone.value, rtol=0, atol=0)
    torch.testing.assert_close(own_gradient[good], alone_own, rtol=1e-13, atol=0)
    torch.testing.assert_close(own_gradient[1], torch.zeros(2), rtol=0, atol=0)
    for got, expected in zip(shared_gradients, alone_shared, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("on_failure", ["nan", "ignore"])
def test_zero_cotangent_is_as_good_as_an_index(on_failure):
    own = torch.tensor([[1.0, 2.0], [1.0, float("nan")], [4.0, 5.0]])
    cotangent = torch.tensor([[1.0], [0.0], [1.0]]).expand(3, 2)
    _, (_, *expected) = gradients(own[[0, 2]], "raise")
    _, (_, *got) = gradients(own, on_failure, cotangent=cotangent)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


def test_raise_still_hands_over_what_worked():
    own = torch.tensor([[1.0, 2.0], [1.0, -1.0], [4.0, 5.0]])
    with pytest.raises(implayer.SolveError, match=r"1 of 3 samples .*samples 1") as caught:
        gradients(own, "raise")
    alone, _ = gradients(own[[0, 2]], "raise")
    torch.testing.assert_close(caught.value.solution.value[[0, 2]], alone.value, rtol=1e-9, atol=1e-9)


def test_nan_mode_marks_the_failed_rows_alone():
    own = torch.tensor([[1.0, 2.0], [1.0, -1.0], [4.0, 5.0]])
    solution, (gradient, *_) = gradients(own, "nan")
    assert solution.value.isnan().all(-1).tolist() == [False, True, False]
    assert gradient.isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("on_failure", ["nan", "ignore"])
def test_under_torch_func(bad, on_failure):
    F = Residual()
    layer = implayer.ImplicitLayer(
        F, implayer.Newton(), initial=lambda x: torch.ones_like(x["own"]), on_failure=on_failure
    )

    def loss(shared, own):
        y = layer({"own": own, "shared": shared})
        return y[0].sum() + y[-1].sum()

    shared, own = torch.tensor([0.1, 0.2]), torch.tensor([[1.0, 2.0], [1.0, bad], [4.0, 5.0]])
    got = torch.func.grad(loss)(shared, own)
    torch.testing.assert_close(got, torch.func.grad(loss)(shared, own[[0, 2]]), rtol=1e-13, atol=0)


def test_samples_that_fail_in_different_ways_give_a_plain_solve_error():
    own = torch.tensor([[1.0, -2.0], [1.0, float("nan")], [4.0, 5.0]])
    with pytest.raises(implayer.SolveError) as caught:
        gradients(own, "raise")
    assert type(caught.value) is implayer.SolveError
    assert caught.value.solution.status.tolist() == [implayer.Status.MAX_STEPS, implayer.Status.NONFINITE, 0]

"""Layers with one fault each, written as a user would write them, and the sound layer that they spoil.

y = tanh(W y + b x) + x, with W = 0.5 * a rotation-like matrix, J different from J', and F_x depending on y.
"""

import torch
from torch import Tensor

W = torch.tensor([[0.2, 0.45], [-0.35, 0.1]], dtype=torch.float64)


def F(x: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(y @ W.T + x * y) * 0.5 + x - y


def solve(x: Tensor, steps: int = 200) -> Tensor:
    with torch.no_grad():
        y = torch.zeros_like(x)
        for _ in range(steps):
            y = F(x, y) + y
    return y


def jacobian(x: Tensor, y: Tensor) -> Tensor:
    """dF/dy by the formula."""
    s = 0.5 * (1 - torch.tanh(y @ W.T + x * y) ** 2)
    eye = torch.eye(2, dtype=x.dtype)
    return s.unsqueeze(-1) * (W.to(x) + torch.diag_embed(x)) - eye


def along_x(x: Tensor, y: Tensor) -> Tensor:
    """dF/dx, a diagonal."""
    return 0.5 * (1 - torch.tanh(y @ W.T + x * y) ** 2) * y + 1


def solve_transposed(J: Tensor, g: Tensor) -> Tensor:
    return torch.linalg.solve(J.mT, g.unsqueeze(-1)).squeeze(-1)


class Rule(torch.autograd.Function):
    """The implicit rule by hand; `fault` says what is wrong with it."""

    @staticmethod
    def forward(x, fault):
        return solve(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)
        ctx.fault = inputs[1]

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        J = jacobian(x, y)
        w = solve_transposed(J.mT if ctx.fault == "transposed" else J, g)
        sign = 1 if ctx.fault == "sign" else -1
        return sign * along_x(x, y) * w, None


class ByRule(torch.nn.Module):
    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        return Rule.apply(x, self.fault)


class Attached(torch.nn.Module):
    """Chord steps by hand: right to first order with one of them, to second with two."""

    def __init__(self, steps=2):
        super().__init__()
        self.steps = steps

    def value(self, x):
        return solve(x.detach())

    def inverse(self, x, y):
        return torch.linalg.inv(jacobian(x.detach(), y.detach()))

    def forward(self, x):
        start = self.value(x)
        y, inverse = start, self.inverse(x, start)
        for _ in range(self.steps):
            y = y - (inverse @ F(x, y).unsqueeze(-1)).squeeze(-1)
        return y


class Leaking(Attached):
    """The last iterations of the solver carry a graph, of which one correction does not get rid."""

    def __init__(self):
        super().__init__(steps=1)

    def value(self, x):
        y = solve(x.detach())
        for _ in range(2):
            y = F(x, y) + y
        return y


class Stale(Attached):
    """Keeps the factor of its first call."""

    factor = None

    def inverse(self, x, y):
        if self.factor is None:
            self.factor = super().inverse(x[:1], y[:1])
        return self.factor


class Loose(Attached):
    """Stops after three iterations and corrects nothing."""

    def forward(self, x):
        y = solve(x.detach(), steps=3)
        step = (self.inverse(x, y) @ F(x, y).unsqueeze(-1)).squeeze(-1)
        return y - (step - step.detach())


class Coupled(Attached):
    """Normalises along the batch instead of along the unknowns."""

    def forward(self, x):
        y = super().forward(x)
        return y - 0.1 * y.mean(0, keepdim=True)


class Misplaced(Attached):
    """Treats the samples by their place."""

    def forward(self, x):
        return super().forward(x) * torch.linspace(1, 2, len(x), dtype=x.dtype).unsqueeze(-1)


class Single(Attached):
    """Returns float32 for float64."""

    def forward(self, x):
        return super().forward(x).float()


class Scribbling(Attached):
    """Writes into the caller's input."""

    def forward(self, x):
        with torch.no_grad():
            x.clamp_(-0.1, 0.1)
        return super().forward(x)


class Detached(torch.nn.Module):
    """y = tanh(W y + b) + x with parameters, one of which is cut off."""

    def __init__(self, cut=None):
        super().__init__()
        self.weight = torch.nn.Parameter(W.clone())
        self.bias = torch.nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))
        self.cut = cut

    def F(self, x, y):
        weight = self.weight.detach() if self.cut == "weight" else self.weight
        bias = self.bias.detach() if self.cut == "bias" else self.bias
        return 0.5 * torch.tanh(y @ weight.T + bias) + x - y

    def forward(self, x):
        with torch.no_grad():
            y = torch.zeros_like(x)
            for _ in range(200):
                y = self.F(x, y) + y
            s = 0.5 * (1 - torch.tanh(y @ self.weight.T + self.bias) ** 2)
            inverse = torch.linalg.inv(s.unsqueeze(-1) * self.weight - torch.eye(2, dtype=x.dtype))
        for _ in range(2):
            y = y - (inverse @ self.F(x, y).unsqueeze(-1)).squeeze(-1)
        return y


class Hoarding(Attached):
    """Keeps every result."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def forward(self, x):
        y = super().forward(x)
        self.kept.append(y.detach())
        return y


class Forgetful(Attached):
    """Loses a buffer in its state_dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.tensor(2.0, dtype=torch.float64), persistent=False)

    def forward(self, x):
        return self.get_buffer("gain") * super().forward(x)


class Remembering(Attached):
    """Returns the first result once more where the next input looks alike."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + 1e-3 * (self.calls > 8))

"""
A deep equilibrium layer
========================

y = tanh(W y + x): the output of infinitely many equal layers, found as a fixed point and trained through the implicit
gradient. Memory does not grow with the number of iterations.
"""

import matplotlib.pyplot as plt
import torch

import implayer

torch.manual_seed(0)
width = 16


class Mix(torch.nn.Module):
    """The map f(x, y) whose fixed point is the output. The bound on W keeps it a contraction while W is trained."""

    def __init__(self, width):
        super().__init__()
        self.linear = implayer.spectral_norm(torch.nn.Linear(width, width), target=0.9)

    def forward(self, x, y):
        return torch.tanh(self.linear(y) + x)


# %%
# A small network with the equilibrium in its middle learns a wave.

layer = implayer.FixedPointLayer(Mix(width), initial=torch.zeros_like)
model = torch.nn.Sequential(torch.nn.Linear(1, width), layer, torch.nn.Linear(width, 1))
optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)

x = torch.linspace(-1, 1, 64).unsqueeze(-1)
target = torch.sin(5 * x)
losses = []
for _ in range(60):
    optimiser.zero_grad()
    loss = (model(x) - target).square().mean()
    loss.backward()
    optimiser.step()
    losses.append(float(loss.detach()))

# %%
# ``layer.solve`` tells how each sample was solved.

hidden = model[0](x)
solution = layer.solve(hidden)
print(f"steps: {solution.steps.min()} to {solution.steps.max()}, residual at most {solution.residual_norm.max():.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
left.semilogy(losses)
left.set(xlabel="step", ylabel="loss")
right.plot(x, target, "k", label="target")
right.plot(x, model(x).detach(), "C1--", label="model")
right.set(xlabel="x")
right.legend()
figure.tight_layout()
plt.show()

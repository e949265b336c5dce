"""
Two equations in two unknowns
=============================

Equations (28) to (34) of *Implicitly Defined Layers in Neural Networks*: a sphere cut by a hyperbola. At x = 1 the solution is
y = (1, √2) and dy/dx = (−1, 0).
"""

import matplotlib.pyplot as plt
import torch

import implayer

torch.set_default_dtype(torch.float64)


def F(x, y):
    return torch.stack([x**2 + y.square().sum(-1) - 4, x * y[..., 0] - 1], dim=-1)


layer = implayer.ImplicitLayer(F, implayer.Newton())
y0 = torch.tensor([0.8, 1.2])

# %%
# Forward mode and reverse mode give the same derivative.

x = torch.tensor(1.0)
print("y     ", layer(x, y0))
print("jacfwd", torch.func.jacfwd(layer)(x, y0))
print("jacrev", torch.func.jacrev(layer)(x, y0))

# %%
# A batch of inputs traces the whole branch. The last axis of y holds the unknowns; all axes before it are batch.

xs = torch.linspace(0.6, 1.8, 100)
ys = layer(xs, y0.expand(100, 2))
figure, axis = plt.subplots(figsize=(5, 3.5))
axis.plot(xs, ys[:, 0], label="$y_1 = 1 / x$")
axis.plot(xs, ys[:, 1], label=r"$y_2 = \sqrt{4 - x^2 - 1 / x^2}$")
axis.plot(1, 1, "ko")
axis.plot(1, 2**0.5, "ko")
axis.set(xlabel="x")
axis.legend()
plt.show()

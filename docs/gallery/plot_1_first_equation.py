"""
A first equation
================

Equation (3) of *Implicitly Defined Layers in Neural Networks*, y⁵ + 16y − 32x³ + 32x = 0, defines y as a function of x for
which no formula exists. As a layer it has a value and derivatives of any order.
"""

import matplotlib.pyplot as plt
import torch

import implayer

torch.set_default_dtype(torch.float64)


def F(x, y):
    return y**5 + 16 * y - 32 * x**3 + 32 * x


layer = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)

# %%
# Every x is a sample of its own (``event_ndim=0``). Two hundred of them are solved in one call.

x = torch.linspace(-1.3, 1.3, 200, requires_grad=True)
y = layer(x)
(slope,) = torch.autograd.grad(y.sum(), x)
expected = (96 * x**2 - 32) / (5 * y**4 + 16)
print(f"largest error of the gradient: {float((slope - expected).abs().max()):.1e}")

# %%
# The curve is the zero set of F; the arrows are tangents (1, dy/dx) from the layer's gradient.

grid_x, grid_y = torch.meshgrid(torch.linspace(-1.3, 1.3, 200), torch.linspace(-2, 2, 200), indexing="xy")
figure, axis = plt.subplots(figsize=(6, 4))
axis.contourf(grid_x, grid_y, F(grid_x, grid_y), levels=30, cmap="RdBu", alpha=0.5)
axis.plot(x.detach(), y.detach(), "k", label="F(x, y) = 0")
some = slice(5, None, 14)
axis.quiver(x.detach()[some], y.detach()[some], torch.ones_like(slope[some]), slope[some], angles="xy", width=0.004)
axis.set(xlabel="x", ylabel="y")
axis.legend()
plt.show()

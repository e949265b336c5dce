"""Nests of tensors: the one place that flattens them. Follows `torch.utils._pytree`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import (
    TreeSpec,
    keystr,
    register_pytree_node,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
    tree_unflatten,
)

from .types import Tree

__all__ = [
    "TreeSpec",
    "differentiable",
    "flatten",
    "leaves",
    "map_tensors",
    "named_leaves",
    "register_pytree_node",
    "tree_map",
    "unflatten",
]

_BARE = tree_flatten(0)[1]  # the structure of a tree that is one leaf: so common that it takes a short way everywhere


def flatten(tree: Tree) -> tuple[list[Any], TreeSpec]:
    """The leaves and the structure."""
    return ([tree], _BARE) if isinstance(tree, Tensor) else tree_flatten(tree)


def unflatten(leaves: list[Any], spec: TreeSpec) -> Tree:
    """The tree with that structure."""
    return leaves[0] if spec is _BARE else tree_unflatten(leaves, spec)


def leaves(tree: Tree) -> list[Any]:
    """All leaves, tensors or not."""
    return [tree] if isinstance(tree, Tensor) else tree_flatten(tree)[0]


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """`function` on every tensor leaf; everything else passes through untouched."""
    if isinstance(tree, Tensor):
        return function(tree)
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def named_leaves(tree: Tree, name: str) -> list[tuple[str, Any]]:
    """Leaves with the expression that reaches them, for messages: `x['weight'][0]`."""
    if isinstance(tree, Tensor):
        return [(name, tree)]
    return [(name + keystr(path), leaf) for path, leaf in tree_flatten_with_path(tree)[0]]


def differentiable(leaf: Any) -> bool:
    """Floating and complex tensors are variables; integer and bool tensors, None and all else are constants."""
    return isinstance(leaf, Tensor) and (torch.is_floating_point(leaf) or torch.is_complex(leaf))

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
    "BARE",
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

BARE = tree_flatten(0)[1]  # the structure of a tree that is one leaf: so common that it takes a short way everywhere


def flatten(tree: Tree) -> tuple[list[Any], TreeSpec]:
    """The leaves and the structure."""
    return ([tree], BARE) if isinstance(tree, Tensor) else tree_flatten(tree)


def unflatten(leaves: list[Any], spec: TreeSpec) -> Tree:
    """The tree with that structure."""
    return leaves[0] if spec is BARE else tree_unflatten(leaves, spec)


def leaves(tree: Tree) -> list[Any]:
    """All leaves, tensors or not."""
    if isinstance(tree, Tensor):
        return [tree]
    shallow = _shallow(tree)
    return tree_flatten(tree)[0] if shallow is None else shallow


def _shallow(tree: Tree) -> list[Any] | None:
    """The leaves of a dict, list or tuple of tensors and None: as common as single tensors."""
    kind = type(tree)
    if kind is not dict and kind is not tuple and kind is not list:
        return None
    values = list(tree.values() if kind is dict else tree)
    return values if all(isinstance(value, Tensor) or value is None for value in values) else None


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """`function` on every tensor leaf; everything else passes through untouched."""
    if isinstance(tree, Tensor):
        return function(tree)
    shallow = _shallow(tree)
    if shallow is not None:
        found = [None if leaf is None else function(leaf) for leaf in shallow]
        return dict(zip(tree, found, strict=True)) if type(tree) is dict else type(tree)(found)
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def named_leaves(tree: Tree, name: str) -> list[tuple[str, Any]]:
    """Leaves with the expression that reaches them, for messages: `x['weight'][0]`."""
    if isinstance(tree, Tensor):
        return [(name, tree)]
    shallow = _shallow(tree)
    if shallow is not None:
        keys = tree if type(tree) is dict else range(len(shallow))
        return [(f"{name}[{key!r}]", leaf) for key, leaf in zip(keys, shallow, strict=True)]
    return [(name + keystr(path), leaf) for path, leaf in tree_flatten_with_path(tree)[0]]


def differentiable(leaf: Any) -> bool:
    """Floating and complex tensors are variables; integer and bool tensors, None and all else are constants."""
    return isinstance(leaf, Tensor) and (torch.is_floating_point(leaf) or torch.is_complex(leaf))

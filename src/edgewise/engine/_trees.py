"""Trees of tensors: tuples, named tuples and dictionaries of tensors, such as all that is kept of one example."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor

Tree = TypeVar("Tree")


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
        return
    for branch in tree.values() if isinstance(tree, dict) else tree:
        yield from leaves(branch)


def with_leaves(tree: Tree, tensors: Iterator[Tensor]) -> Tree:
    """A tree of the same form with other tensors."""
    form: Any = tree
    if isinstance(form, Tensor):
        return next(tensors)  # pyright: ignore[reportReturnType] (a leaf is a tree)
    if isinstance(form, dict):
        return {name: with_leaves(branch, tensors) for name, branch in form.items()}  # pyright: ignore[reportReturnType]
    branches = [with_leaves(branch, tensors) for branch in form]
    return type(form)(*branches) if hasattr(form, "_fields") else tuple(branches)  # pyright: ignore[reportReturnType]


def mapped(function: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """A function of the corresponding tensors of several trees of one form."""
    return with_leaves(tree, (function(*tensors) for tensors in zip(leaves(tree), *map(leaves, others), strict=True)))

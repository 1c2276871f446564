"""Modules under the dotted names that a checkpoint gives them."""

from torch import nn


def add_submodule(root: nn.Module, name: str, module: nn.Module) -> None:
    """Registers a module some levels below another, with empty modules for the levels between.

    Args:
        root: The module that the name counts from.
        name: `"cls.predictions.decoder"`: the module's parameters then have the checkpoint's names.
        module: The module.

    Raises:
        KeyError: The name is taken.
    """
    *levels, last = name.split(".")
    for level in levels:
        if level not in root._modules:
            root.add_module(level, nn.Module())
        root = root.get_submodule(level)
    if last in root._modules:
        raise KeyError(f"there is a module {name!r} already")
    root.add_module(last, module)

"""Sites: the addresses of activations, in any module tree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError, did_you_mean

_ADDRESS = re.compile(r"(?P<module>\w+(?:\.\w+)*)(?:\[(?P<head>\d+)\])?")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True, order=True)
class Site:
    """The address of an activation: the output of a module, or one attention head of it."""

    module: str
    """Path of the module whose output it is, such as `blocks.12` or `blocks.12.space.heads`."""
    head: int | None = None
    """Index on the second-last axis of a per-head output; None for the whole output."""

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read an address such as `blocks.12` or `blocks.12.space.heads[5]`; a `Site` is returned unchanged.

        Raises:
            PhysteerError: The text is not an address.
        """
        if isinstance(text, Site):
            return text
        match = _ADDRESS.fullmatch(text.strip())
        if match is None:
            raise PhysteerError(f"{text!r} is not a site; write a module path such as 'blocks.3' or 'a.b.heads[0]'")
        return cls(match["module"], None if match["head"] is None else int(match["head"]))

    def __str__(self) -> str:
        return self.module if self.head is None else f"{self.module}[{self.head}]"

    def select(self, activation: Tensor) -> Tensor:
        """Return a view of a module's output in the layout of edits and captures: channels last, width d.

        A per-head output [B, T, h, w, δ, n, hd] becomes [B, T, h, w, δ, hd] at one head, else [B, T, h, w, δ, n·hd].
        Other layouts, such as tokens [B, T, d], are returned unchanged.

        Raises:
            PhysteerError: There is no such head.
        """
        if self.head is not None:
            if activation.ndim < 3 or self.head >= activation.shape[-2]:
                heads = activation.shape[-2] if activation.ndim >= 3 else 0
                raise PhysteerError(f"site {self} asks for head {self.head}; its output has {heads} heads")
            return activation[..., self.head, :]
        return activation.flatten(-2) if activation.ndim == 7 else activation


@runtime_checkable
class DeclaresSites(Protocol):
    """A model that lists its sites; its other modules can still be addressed."""

    def site_names(self) -> Iterable[str]:
        """Return module paths."""
        ...


def site_names(model: nn.Module) -> tuple[str, ...]:
    """Return the sites that a model declares, else every submodule that has a forward of its own."""
    if isinstance(model, DeclaresSites):
        return tuple(model.site_names())
    return tuple(name for name, module in model.named_modules() if name and not isinstance(module, _CONTAINERS))


def find_module(model: nn.Module, site: Site) -> nn.Module:
    """Return the module whose output is a site.

    Raises:
        PhysteerError: There is no such module (the message lists close names), or it lies inside a compiled one, which
            would ignore a hook that is added now.
    """
    module, walked = model, ""
    _refuse_compiled(module, site, walked)
    for part in site.module.split("."):
        if _hides_children(module):
            raise _inside_compiled(site, walked)
        child = module._modules.get(part)
        if child is None:
            names = site_names(model)
            close = did_you_mean(site.module, names)
            raise PhysteerError(f"site {site.module!r} not found{close or ';'} 'physteer sites' lists all {len(names)}")
        module, walked = child, f"{walked}.{part}" if walked else part
        _refuse_compiled(module, site, walked)
    return module


def _hides_children(module: nn.Module) -> bool:
    # torch.compile(module) wraps it, and module.forward = torch.compile(module.forward) keeps it: either way hooks on
    # the module itself run outside of the graph and work, hooks below it are ignored.
    compiled_forward = hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")
    return "_orig_mod" in module._modules or compiled_forward or isinstance(module, torch.jit.ScriptModule)


def _refuse_compiled(module: nn.Module, site: Site, walked: str) -> None:
    # module.compile() compiles the call itself, hooks included: a hook added later is ignored.
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise _inside_compiled(site, walked)


def _inside_compiled(site: Site, walked: str) -> PhysteerError:
    compiled = f"'{walked}'" if walked else "model"
    return PhysteerError(
        f"site {site.module!r} lies inside the compiled {compiled}, which ignores edits added later; "
        "compile only the forward of blocks (block.forward = torch.compile(block.forward) keeps their outputs sites)"
    )

"""Sites: the addresses of activations, in any module tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions.layout import parse_layout

_ADDRESS = re.compile(r"(?P<module>\w+(?:\.\w+)*)(?:\[(?P<head>\d+)\])?(?:\s+as\s+(?P<layout>.+))?")
_BETWEEN_STAGES = re.compile(r"encoder|blocks\.\d+(?:\.input)?")
_INPUT = "input"
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True, order=True)
class Site:
    """The address of an activation: the output of a module, its input, or one attention head of them.

    A path that ends in `input`, where the module has no child of that name, is the input of the module: its first
    positional argument, else its first keyword argument that is a tensor. `h.0.attn.c_proj.input[2] as b t (n=4 hd)` is
    an attention head of a GPT-2 before its projection. Where a module gets one tensor several times, as attention may
    get its query, key and value, only the first is the site.

    Two sites with one address are equal whatever is known of their layouts, and `str` gives the address alone.
    """

    module: str
    """Path of the module whose output it is, such as `blocks.12` or `blocks.12.space.heads`; with `.input` behind it,
    of the module whose input it is."""
    head: int | None = None
    """Index on the axis of heads; None for the whole output."""
    layout: str | None = field(default=None, compare=False)
    """The axes of the output or input (`Layout`), such as `b c h w`; None for what the model declares."""

    def __post_init__(self) -> None:
        if self.layout is not None:
            with naming(self):
                parse_layout(self.layout)

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read an address such as `blocks.12` or `blocks.12.space.heads[5]`; a `Site` is returned unchanged.

        Where the model does not declare the layout, it follows after "as": `blocks.3 as b c h w`, `attention[2] as
        b t (n=8 hd)`.

        Raises:
            PhysteerError: The text is not an address, or the layout is none.
        """
        if isinstance(text, Site):
            return text
        match = _ADDRESS.fullmatch(text.strip())
        if match is None:
            raise PhysteerError(
                f"{text!r} is not a site; write a module path such as 'blocks.3' or 'a.b.heads[0]', and the layout of "
                "a model that declares none, such as 'blocks.3 as b c h w'"
            )
        return cls(match["module"], None if match["head"] is None else int(match["head"]), match["layout"])

    def __str__(self) -> str:
        return self.module if self.head is None else f"{self.module}[{self.head}]"

    @property
    def with_its_layout(self) -> str:
        """The address and the layout, as `parse` reads them."""
        return f"{self}{'' if self.layout is None else f' as {self.layout}'}"

    def select(self, output: Tensor) -> Tensor:
        """Return a module's output or input as edits and captures see it: [B, T, …, d], rows, frames, space, channels.

        A per-head output [B, T, h, w, δ, n, hd] becomes [B, T, h, w, δ, hd] at one head, else [B, T, h, w, δ, n·hd];
        [B, C, H, W] becomes [B, 1, H, W, C]. It is a view wherever torch can make one. Without a layout the output is
        returned unchanged.

        Raises:
            PhysteerError: The layout does not fit the output, or there is no such head.
        """
        if self.layout is not None:
            return parse_layout(self.layout).view(output, self.head)
        if self.head is not None:
            raise unknown_layout(self, output.shape, "a head")
        return output

    def writable(self, output: Tensor) -> Tensor:
        """Return a view of a contiguous output, for `select` to be written to; all heads are [B, T, …, n, hd]."""
        return output if self.layout is None else parse_layout(self.layout).writable(output, self.head)

    def restored(self, activation: Tensor, output: Tensor) -> Tensor:
        """Return a whole activation, as `select` gives it, with the axes of the module's output."""
        if self.layout is None:
            return activation if activation.shape == output.shape else activation.reshape(output.shape)
        return parse_layout(self.layout).restored(activation, output)


@cache
def path_pattern(text: str) -> re.Pattern[str]:
    """Return a pattern of module paths, such as ``blocks.*.mlp``: ``*`` stands for any text in one part of a path."""
    return re.compile(r"\.".join(re.escape(part).replace(r"\*", r"[^.]*") for part in text.split(".")))


def unknown_layout(site: Site, shape: Sequence[int], needed_by: str) -> PhysteerError:
    """Return the refusal of what needs the layout of a site, of which nothing is known."""
    examples = {2: "b d", 3: "b t d", 4: "b c h w", 5: "b c h w z", 6: "b t h w δ d", 7: "b t h w δ n hd"}
    if site.head is not None:
        examples |= {3: "b t (n=8 hd)", 4: "b t n hd"}
    example = examples.get(len(shape), "b ... d")
    return PhysteerError(
        f"{needed_by} must know which axis of the activation {list(shape)} is which, and the model does not declare "
        f"it; give the layout, such as '{site} as {example}' or Site({site.module!r}, layout={example!r})"
    )


@contextmanager
def naming(site: Site) -> Iterator[None]:
    """Name a site in the errors of what is done with its activation."""
    try:
        yield
    except PhysteerError as error:
        raise named(site, error) from error


def named(site: Site, error: PhysteerError) -> PhysteerError:
    """Return an error with the name of the site; for hooks, in which `naming` would take longer than a small edit."""
    return PhysteerError(f"site {site}: {error}")


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


class DeclaresLayouts(Protocol):
    """A model that knows the axes of its modules' outputs, and may know those of their inputs."""

    def site_layout(self, module: str) -> str | None:
        """Return the layout (`Layout`) of a site, given by its path (`Site.module`); None where it is unknown."""
        ...


def with_layout(model: nn.Module, site: Site) -> Site:
    """Return a site with its layout: its own; else what the model, or the part of it that holds the module, declares.

    The borders of a model in stages (`StagedModel`) are [B, T, …, d] unless it says otherwise. The layout stays None
    where nothing is known.
    """
    if site.layout is not None:
        return site
    parent, rest = model, site.module
    while rest:
        declared = getattr(parent, "site_layout", None)  # `isinstance` of a protocol takes longer than a small edit
        layout = declared(rest) if callable(declared) else None
        if layout is None and _BETWEEN_STAGES.fullmatch(rest) and hasattr(parent, "run_blocks"):
            layout = "b t ... d"
        if layout is not None:
            return replace(site, layout=layout)
        first, _, rest = rest.partition(".")
        child = getattr(parent, first, None)
        if not isinstance(child, nn.Module):
            break
        parent = child
    return site


class Place(NamedTuple):
    """Where a site is seen."""

    module: nn.Module
    is_input: bool
    """Whether the site is the module's input; else it is its output."""


def find_module(model: nn.Module, site: Site) -> nn.Module:
    """Return the module whose output or input is a site.

    Raises:
        PhysteerError: As for `find_place`.
    """
    return find_place(model, site).module


def find_place(model: nn.Module, site: Site) -> Place:
    """Return the module whose output or input is a site, and which of the two it is.

    Raises:
        PhysteerError: There is no such module (the message lists close names); it lies inside a compiled one, which
            would ignore a hook that is added now; or a head is asked for where there is none.
    """
    module, walked, parts = model, "", site.module.split(".")
    is_input = False
    _refuse_compiled(module, site, walked)
    for i, part in enumerate(parts):
        hidden = _hides_children(module)
        child = None if hidden else module._modules.get(part)
        if child is None and part == _INPUT and i == len(parts) - 1:
            is_input = True
            break
        if hidden:
            raise _inside_compiled(site, walked)
        if child is None:
            raise _not_found(model, site)
        module, walked = child, f"{walked}.{part}" if walked else part
        _refuse_compiled(module, site, walked)
    if site.head is not None and isinstance(module, nn.MultiheadAttention):
        raise PhysteerError(
            f"site {site} asks for a head, but the output of nn.MultiheadAttention is behind out_proj, which mixes its "
            "heads, and its input comes before them; no axis of either is heads"
        )
    return Place(module, is_input)


def _not_found(model: nn.Module, site: Site) -> PhysteerError:
    names = site_names(model)
    close = did_you_mean(site.module, (*names, *(f"{name}.{_INPUT}" for name in names)))
    return PhysteerError(f"site {site.module!r} not found{close or ';'} 'physteer sites' lists all {len(names)}")


def _hides_children(module: nn.Module) -> bool:
    # torch.compile(module) wraps it, and module.forward = torch.compile(module.forward) keeps it: either way hooks on
    # the module itself run outside of the graph and work, hooks below it are ignored.
    if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
        return True
    return "forward" in module.__dict__ and hasattr(module.__dict__["forward"], "_torchdynamo_orig_callable")


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

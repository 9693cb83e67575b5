"""Edits and observers attached to a model by hooks, which are always removed again."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.edit import Edit, apply_edits
from physteer.interventions.locus import Clock
from physteer.interventions.replacements import Resample
from physteer.interventions.sites import Place, Site, find_place, named, with_layout

Hook = Callable[[nn.Module, Any, Any], Any]
"""A forward hook of torch."""


@contextmanager
def attached(model: nn.Module, edits: Sequence[Edit], clock: Clock | None = None) -> Iterator[None]:
    """Apply edits in every forward of a model while the context is open.

    Edits of one activation compose in list order, and each call of the module is edited; an edit of a module's input
    comes before the module, one of its output after it. When the context closes, also by an error, these hooks are
    removed; hooks of others stay. Nothing is attached unless every site exists. An edit of a module that was not called
    has changed nothing: that is an error when the context closes without one. For generation with a cache, see
    `attached_to_pieces`.

    Args:
        model: any module; sites are paths in it.
        edits: what to change. Sites without a layout take what the model declares (`DeclaresLayouts`).
        clock: the rollout's step, for edits limited to some (`Locus.steps`); a step without edits counts as reached.

    Raises:
        PhysteerError: A site is not found or inside a compiled module, or steps are asked for without a clock; an edit
            needs a layout that nobody declares, or does not fit; or, at the end, no forward has reached a site.
    """
    with editing(model, edits, clock) as reached:
        yield
    check_reached([edit.site for edit in edits], reached)


@contextmanager
def editing(
    model: nn.Module,
    edits: Sequence[Edit],
    clock: Clock | None = None,
    of_calls: Callable[[Sequence[Edit]], Callable[[Tensor], Sequence[Edit]]] | None = None,
) -> Iterator[set[str]]:
    """Apply edits as `attached`, for passes that may end before a site: yield the modules that were reached so far.

    Args:
        model: any module.
        edits: as for `attached`.
        clock: as for `attached`.
        of_calls: makes, of the edits of one activation, what chooses those of each call; None for all in every call.
    """
    reached, at_place = set[str](), dict[Place, list[Edit]]()
    for edit in edits:
        place, edit = find_place(model, edit.site), edit.with_site(with_layout(model, edit.site))
        at_place.setdefault(place, []).append(edit)
        if edit.locus.steps is not None and clock is None:
            raise PhysteerError(f"site {edit.site}: an edit is limited to some rollout steps, but no clock is given")
        _check_rows(model, edit)
    choices = {place: None if of_calls is None else of_calls(own) for place, own in at_place.items()}
    with hooked([(place, _editing(own, clock, reached, choices[place])) for place, own in at_place.items()]):
        yield reached


@contextmanager
def observed(
    model: nn.Module, sites: Sequence[Site | str], observe: Callable[[Site, Tensor], None]
) -> Iterator[set[str]]:
    """Call a function with activations, at every call of their modules, while the context is open.

    Args:
        model: any module.
        sites: whose activations are observed.
        observe: called with the site and its activation as edits see it (`Site.select`): [B, T, …, d], rows, frames,
            space and channels, where the site has a layout or the model declares it; else the module's output as it is.
            It gets the live tensor, after edits attached earlier, on the autograd tape if there is one. It must not
            change the tensor, and must copy what it keeps.

    Yields:
        The paths of modules that were called so far: `check_reached` refuses that one was not.

    Raises:
        PhysteerError: A site is not found or inside a compiled module, or a head is asked for without a layout.
    """
    parsed, reached = [with_layout(model, Site.parse(site)) for site in sites], set[str]()
    with hooked([(find_place(model, site), _observing(site, observe, reached)) for site in parsed]):
        yield reached


@contextmanager
def captured(model: nn.Module, sites: Sequence[Site | str], detach: bool = True) -> Iterator[dict[str, Tensor]]:
    """Collect activations while the context is open; use `observed` to see every call of a rollout.

    Args:
        model: any module.
        sites: whose activations are collected.
        detach: collect copies off the autograd tape; else the live tensors, with gradients.

    Yields:
        Activations by `str(site)`: of the latest call, absent before the first. They are as edits see them: [B, T, …,
        d], such as [B, T, h, w, δ, d] of Walrus or [B, 1, h, w, C] of layout `b c h w`; without a layout the module's
        output as it is.

    Raises:
        PhysteerError: As for `observed`; or no forward has reached a site when the context closes without error.
    """
    activations: dict[str, Tensor] = {}

    def keep(site: Site, activation: Tensor) -> None:
        # A copy: the network may go on to change the tensor in place, and one head must not keep the others alive.
        activations[str(site)] = activation.detach().clone() if detach else activation

    with observed(model, sites, keep) as reached:
        yield activations
    check_reached([Site.parse(site) for site in sites], reached)


@contextmanager
def stopped_after(
    model: nn.Module,
    sites: Sequence[Site | str],
    observe: Callable[[Site, Tensor], None],
    edits: Sequence[Edit] = (),
    clock: Clock | None = None,
) -> Iterator[None]:
    """Call a function with activations, and end the pass as soon as every site was seen once.

        with stopped_after(model, ["blocks.3"], look):
            model(x)  # what follows block 3 is not computed

    The rest of the ``with`` block is skipped too. Activations include the changes of the edits.

    Args:
        model: any module.
        sites: one or more; of a module that is called repeatedly, the first call counts.
        observe: as for `observed`.
        edits: applied during the pass; those behind the last of the sites have no effect on them.
        clock: as for `attached`.

    Raises:
        PhysteerError: A site is not found or inside a compiled module, or the code has not reached all of them.
    """
    remaining = {Site.parse(site) for site in sites}

    def look(site: Site, h: Tensor) -> None:
        if site in remaining:
            observe(site, h)
            remaining.discard(site)
            if not remaining:
                raise _PassStoppedError

    parsed = list(remaining)
    with editing(model, edits, clock), observed(model, parsed, look):
        try:
            yield
        except _PassStoppedError:
            return
    check_reached(parsed, {site.module for site in parsed if site not in remaining})


class _PassStoppedError(BaseException):
    """Ends a pass early; it is no `Exception`, so that a model's own handlers do not catch it."""


def check_reached(sites: Sequence[Site], reached: Container[str]) -> None:
    """Check that a forward has called the modules of all sites.

    Args:
        sites: of edits or captures.
        reached: the paths of modules that were called (`observed`).

    Raises:
        PhysteerError: It has not.
    """
    for site in sites:
        if site.module not in reached:
            raise PhysteerError(
                f"site {site.module!r} has no activation: the forward does not call that module ('physteer sites' "
                "lists those it does), or a compiled copy of the model was called, which hooks on the original do not "
                "reach"
            )


def _check_rows(model: nn.Module, edit: Edit) -> None:
    """Refuse edits of rows without a layout where a model, as torch's transformers may, has its rows on axis 1."""
    if edit.site.layout is None and (edit.locus.rows is not None or isinstance(edit.replacement, Resample)):
        for name, module in model.named_modules():
            if getattr(module, "batch_first", True) is False:
                raise PhysteerError(
                    f"site {edit.site}: an edit of rows needs to know which axis they are, since {name or 'the model'} "
                    f"has batch_first=False; give the layout, such as '{edit.site} as t b d'"
                )


@contextmanager
def hooked(hooks: Sequence[tuple[Place, Hook]]) -> Iterator[None]:
    """Register hooks while the context is open.

    Args:
        hooks: where (`find_place`), and what is called with the module, its arguments and its output; for an input,
            with the module, nothing and the input. What it returns, unless None, takes the place of output or input.
    """
    with ExitStack() as stack:
        for (module, is_input), hook in hooks:
            if is_input:
                handle = module.register_forward_pre_hook(_before(hook), with_kwargs=True)
            else:
                handle = module.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


def _before(hook: Hook) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
    """Return a hook of inputs that does with the first of them what a hook of outputs does with the output."""

    def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = hook(module, (), args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)
        changed = hook(module, (), None if name is None else kwargs[name])
        return None if changed is None else (args, kwargs | {name: changed})

    return pre_hook


def _editing(
    edits: list[Edit], clock: Clock | None, reached: set[str], of_call: Callable[[Tensor], Sequence[Edit]] | None
) -> Hook:
    names = {edit.site.module for edit in edits}
    unknown = [edit for edit in edits if edit.site.layout is None]

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        reached.update(names)
        h = _activation(output, edits[0].site)
        for edit in unknown:
            try:
                edit.check_known(h, module)
            except PhysteerError as error:
                raise named(edit.site, error) from error
        own = edits if of_call is None else of_call(h)
        edited = apply_edits(h, own, None if clock is None else clock.step)
        if edited is h:
            return None  # the output stays the object it is
        return edited if output is h else _with_first(output, edited)

    return hook


def _observing(site: Site, observe: Callable[[Site, Tensor], None], reached: set[str]) -> Hook:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        reached.add(site.module)
        first = _activation(output, site)
        try:
            activation = site.select(first)
        except PhysteerError as error:
            raise named(site, error) from error
        observe(site, activation)

    return hook


def _activation(output: Any, site: Site) -> Tensor:
    """Return a module's activation: its output, or the first part of it where that is a tuple."""
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, torch.Tensor):
        raise PhysteerError(
            f"site {site.module} is a {type(output).__name__}; a site, the output of a module or its first input, is a "
            "tensor, or a tuple that starts with one"
        )
    if first.is_nested:
        raise PhysteerError(
            f"site {site.module} is a nested tensor, whose rows have sizes of their own, and edits and captures are of "
            "tensors with axes; make an nn.TransformerEncoder with enable_nested_tensor=False, or call it without a "
            "padding mask"
        )
    return first


def _with_first(output: tuple[Any, ...], first: Tensor) -> tuple[Any, ...]:
    if hasattr(output, "_replace"):  # a named tuple
        return type(output)(first, *output[1:])
    return (first, *output[1:])

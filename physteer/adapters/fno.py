"""The Fourier neural operator (Li et al., arXiv 2010.08895) of the neuraloperator package, for the next frame."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import StagedNetwork

try:
    with warnings.catch_warnings():  # neuralop changes the filters of the whole process
        from neuralop.models import FNO as Operator
except ModuleNotFoundError as missing:
    hint = "physteer.adapters.FNO needs the package neuraloperator: pip install 'physteer[fno]'"
    raise ModuleNotFoundError(hint, name=missing.name) from missing


class FNO(StagedNetwork):
    """`neuralop.models.FNO` on the frames of a window, stacked as channels.

    Its layers are the sites ``blocks.i``; their parts, such as the spectral convolutions
    ``operator.fno_blocks.convs.i``, can be steered and captured. Weights have neuralop's own names, so that a state
    dictionary of its FNO can be loaded once its entry ``_metadata``, which names functions, is left out of the file.

    Args:
        fields: F, the number of fields.
        frames: T, the number of frames of a window.
        modes: of the spectral convolutions along each axis of space: two for two-dimensional fields, three for three.
        width: channels of the layers.
        depth: number of layers.
        options: further arguments of `neuralop.models.FNO`, such as ``positional_embedding: grid`` or ``norm:
            instance_norm``.
    """

    border_layout: ClassVar[str] = "b c ..."
    layouts: ClassVar[Mapping[str, str]] = {
        "operator.lifting": "b c ...",
        "operator.fno_blocks.*.*": "b c ...",
        "operator.projection": "b c ...",
    }

    def __init__(
        self,
        fields: int,
        frames: int,
        modes: Sequence[int] = (12, 12),
        width: int = 32,
        depth: int = 4,
        options: dict[str, Any] | None = None,
    ) -> None:
        settings: dict[str, Any] = {"positional_embedding": None, **(options or {})}
        operator = Operator(
            n_modes=tuple(modes),
            in_channels=frames * fields,
            out_channels=fields,
            hidden_channels=width,
            n_layers=depth,
            **settings,
        )
        axes = len(tuple(modes))
        super().__init__(Lift(operator, axes), [Layer(operator, i) for i in range(depth)], Project(operator, axes))
        self.operator = operator
        self.frames, self.n_fields = frames, fields
        self.register_state_dict_post_hook(_keep_tensors)  # type: ignore[no-untyped-call]


class Part(nn.Module):
    """A part of the operator's forward. Weights stay where they are: the operator is not a submodule."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self._operator = (operator,)

    @property
    def operator(self) -> Any:
        """The whole operator."""
        return self._operator[0]


class Lift(Part):
    """From windows [N, T, F, H, W, D] to the first layer's input, [N, C, H, W] or [N, C, H, W, D]."""

    def __init__(self, operator: nn.Module, axes: int) -> None:
        super().__init__(operator)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Return the fields of all frames as channels, lifted, and padded where the operator pads."""
        if self.axes == 2 and x.shape[-1] > 1:
            raise PhysteerError(f"FNO has modes of two axes, and the fields have three: {list(x.shape[3:])} cells")
        stacked = rearrange(x, "n t f h w 1 -> n (t f) h w" if self.axes == 2 else "n t f h w d -> n (t f) h w d")
        if self.operator.positional_embedding is not None:
            stacked = self.operator.positional_embedding(stacked)
        h: Tensor = self.operator.lifting(stacked)
        return h if self.operator.domain_padding is None else self.operator.domain_padding.pad(h)


class Layer(Part):
    """One layer: a spectral convolution, with its skip and what follows."""

    def __init__(self, operator: nn.Module, index: int) -> None:
        super().__init__(operator)
        self.index = index

    def forward(self, h: Tensor) -> Tensor:
        """Return the layer's output, of its input's shape."""
        out: Tensor = self.operator.fno_blocks(h, self.index)
        return out


class Project(Part):
    """From the last layer to the change of the last frame, [N, 1, F, H, W, D]."""

    def __init__(self, operator: nn.Module, axes: int) -> None:
        super().__init__(operator)
        self.axes = axes

    def forward(self, h: Tensor) -> Tensor:
        """Return the change."""
        if self.operator.domain_padding is not None:
            h = self.operator.domain_padding.unpad(h)
        out: Tensor = self.operator.projection(h)
        return out[:, None, ..., None] if self.axes == 2 else out[:, None]


def _keep_tensors(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Drop the settings that neuralop adds to state dictionaries: they hold functions, which no file of ours may."""
    state.pop("_metadata", None)

"""What ``fit`` minimises when it trains the network itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from physteer.data.batch import Batch
    from physteer.module import WalrusModule


class NextStepMAE(nn.Module):
    """Mean absolute error of the normalised differences, the loss Walrus was trained with.

    Every frame of the window but the first is predicted from the frames before it; |y − (u(t+1) − u(t)) / r_Δ| is
    averaged over frames, space and the channels that evolve, with r_Δ from the context.
    """

    def forward(self, module: WalrusModule, batch: Batch) -> Tensor:
        """Return the loss of a batch whose windows have one frame after the context."""
        prediction, scale = module.normalised_differences(batch.context, batch, step=module.global_step)
        target = batch.fields.diff(dim=1) / scale.differences
        predicted = batch.channels.predicted
        return (prediction - target)[:, :, predicted].abs().mean()

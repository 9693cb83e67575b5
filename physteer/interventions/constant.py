"""Constants of edits: they move to the device of activations, and keep their precision."""

import torch
from torch import Tensor


class Constant:
    """A tensor with one copy on every device that uses it, all in its original precision.

    It is neither a buffer nor a parameter: a model cast to bfloat16 must not round directions and bases, and
    checkpoints hold trainables only.
    """

    def __init__(self, value: Tensor) -> None:
        # A tensor made under inference mode could not be saved for a later backward pass: copy it outside.
        with torch.inference_mode(False):
            self.value = value.detach().clone()
        self._copies = {self.value.device: self.value}

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on a device."""
        if device not in self._copies:
            with torch.inference_mode(False):
                self._copies[device] = self.value.to(device)
        return self._copies[device]

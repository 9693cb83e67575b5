"""The contract suite names, in a sentence, what an emulator does wrong."""

import pytest
import torch
from helpers.emulators import FIELDS, emulator, pairs
from helpers.experiments import random_walrus

from physteer.adapters import UNet, ViT
from physteer.errors import PhysteerError
from physteer.forecast import FrameForecaster, WalrusForecaster
from physteer.testing import CHECKS, check_forecaster

OTHERS = [name for name in CHECKS if name != "two processes"]


class Noisy(ViT):
    def forward(self, *inputs, **more):
        y = super().forward(*inputs, **more)
        return y + 1e-3 * torch.randn_like(y)


class AcrossTheBatch(ViT):
    def forward(self, *inputs, **more):
        y = super().forward(*inputs, **more)
        return y - y.mean(0, keepdim=True)


class HiddenSkip(UNet):
    """Reads earlier outputs, and says that it reads none."""

    def run_blocks(self, h, context, start=0, stop=None, **more):
        if start == 0:
            self.kept = {}
        self.kept[start] = h
        return super().run_blocks(h, {**self.kept, **context}, start, stop, **more)

    def skip_borders(self, start):
        return []

    def with_skips(self, context, activations):
        return {key: torch.zeros_like(value) for key, value in activations.items()}


class WrongAxes(ViT):
    border_layout = "t b h w d"


class SumOfChannels(FrameForecaster):
    """Scales its output outside of `next_frame`."""

    def predict_next(self, window, batch, step=0, *, all_frames=False):
        frame = super().predict_next(window, batch, step)
        return window[:, -1:] + 0.5 * (frame - window[:, -1:])


class OneName(FrameForecaster):
    identity = "mine"


class Flat(torch.nn.Module):
    """A network without stages, whose only layout nobody knows."""

    frames = 3

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(12, 8, 1)
        self.out = torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.out(self.mix(x[..., 0].flatten(1, 2)).tanh())[:, None, ..., None]


@pytest.mark.parametrize(
    ("kind", "network", "check", "message"),
    [
        (FrameForecaster, Noisy, "prediction", "predict_next differs from call to call"),
        (FrameForecaster, AcrossTheBatch, "prediction", "depends on the others in its batch"),
        (FrameForecaster, HiddenSkip, "replay", "a pass continued from .* ends elsewhere than a whole pass"),
        (FrameForecaster, WrongAxes, "sites", "has 1 rows for 4 windows by its layout"),
        (SumOfChannels, ViT, "prediction", r"predict_next is not next_frame of network\(\*inputs\)"),
        (OneName, ViT, "weights", "other weights have the same identity"),
    ],
)
def test_what_is_wrong_is_named(kind, network, check, message, tiny_well):
    torch.manual_seed(0)
    small = {"width": 8} if issubclass(network, UNet) else {"patch": 8, "width": 16, "depth": 2, "heads": 2}
    broken = kind(network(fields=4, frames=3, **small), FIELDS)
    with pytest.raises(PhysteerError, match=rf"{check}: .*{message}"):
        check_forecaster(broken, pairs(tiny_well), skip=["two processes"])


def test_what_is_missing_is_named(tiny_well):
    class Half:
        network = emulator("ViT")

    with pytest.raises(PhysteerError, match=r"^members: Half lacks causal_in_time, .*next_frame"):
        check_forecaster(Half(), pairs(tiny_well))


def test_what_is_not_offered_is_no_failure(tiny_well):
    flat = FrameForecaster(Flat(), FIELDS)
    with pytest.raises(PhysteerError, match=r"without sites needs a network .*; name the sites to try"):
        check_forecaster(flat, pairs(tiny_well))
    report = check_forecaster(flat, pairs(tiny_well), ["mix as b c h w"], skip=["two processes"])
    assert {*report.not_offered} == {"replay", "DAS", "effects", "causal basis"}
    assert all("Flat has no method 'encode'" in why for why in report.not_offered.values())
    assert "steering" in report.passed and "probe" in report.passed


def test_walrus_keeps_it(tiny_well):
    report = check_forecaster(WalrusForecaster(random_walrus()), pairs(tiny_well), skip=["two processes"])
    assert report.passed == OTHERS, str(report)


def test_checks_that_are_not_there_are_refused(tiny_well):
    with pytest.raises(PhysteerError, match="no check 'speed'; checks are members, "):
        check_forecaster(FrameForecaster(emulator("ViT"), FIELDS), pairs(tiny_well), skip=["speed"])

"""Edits and observers find the axes of another emulator's activations by `Forecaster.layout`."""

import lightning as L
import pytest
import torch
from helpers.channels_first import WIDTH, ConvolutionForecaster

from physteer import ForecastModule
from physteer.analyses.engine import ActivationReader
from physteer.callbacks import Capture, NaturalSpaces
from physteer.concepts import Concept, frame_sums
from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.data.module import WellDataModule
from physteer.errors import PhysteerError
from physteer.forecast import steered_rollout
from physteer.interventions import UNSTEERED, Condition, Edit, Locus, Site, Span, Steer, Zero

SITE = Site("blocks.0")


@pytest.fixture(scope="module")
def batch(tiny_well):
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, 2, every=None)) as windows:
        return collate([windows[i] for i in range(2)], n_input=3, metadata=windows.metadata)


@pytest.fixture(scope="module")
def forecaster(batch):
    return ConvolutionForecaster(batch.channels.names)


class Keeps:
    """Keeps what it observes in the first forward."""

    all_frames = True

    def __init__(self, site=SITE) -> None:
        self.site, self.seen = site, []

    def sites_at(self, step):
        return [self.site] if step == 0 else []

    def observe(self, site, h):
        self.seen.append(h.clone())


@torch.no_grad()
def test_rollouts_are_steered_along_channels(forecaster, batch):
    U = torch.linalg.qr(torch.randn(WIDTH, 2, generator=torch.Generator().manual_seed(0)))[0]
    direction = torch.randn(1, 1, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    steer = Condition("steered", (Edit(SITE, Steer(direction, 0.3)),))
    erase = Condition("erased", (Edit(SITE, Zero(), Span(U), Locus(steps=[0])),))
    null = Condition("null", (Edit(SITE, Steer(direction, 0.0)),))
    keeps = Keeps()
    frames = torch.cat(list(steered_rollout(forecaster, batch, 2, [UNSTEERED, steer, erase, null], [keeps])), 1)
    plain, steered, erased, unchanged = frames.chunk(4)
    assert torch.equal(plain, unchanged) and not torch.equal(plain, steered) and not torch.equal(plain, erased)
    (h,) = keeps.seen
    assert h.shape == (4 * 2, 1, *batch.grid.shape, WIDTH)
    plain, steered, erased, unchanged = h.chunk(4)
    moved = (steered - plain).flatten(1)
    torch.testing.assert_close(moved.norm(dim=1), 0.3 * plain.flatten(1).norm(dim=1))
    assert int(torch.linalg.matrix_rank(moved.reshape(-1, WIDTH), tol=1e-4)) == 1
    assert int(torch.linalg.matrix_rank((erased - plain).reshape(-1, WIDTH), tol=1e-4)) == 2
    read = []
    ActivationReader(forecaster, [SITE]).read_rollout(batch, lambda step, site, h: read.append(h.clone()), [0], steer)
    torch.testing.assert_close(read[0], steered)


@torch.no_grad()
def test_what_the_forecaster_does_not_know_is_refused(forecaster, batch):
    with pytest.raises(PhysteerError, match=r"site lift: the axes of its output .* are unknown: Keeps needs a layout"):
        list(steered_rollout(forecaster, batch, 1, [UNSTEERED], [Keeps(Site("lift"))]))
    direction = torch.ones(1, 1, 1, WIDTH)
    with pytest.raises(PhysteerError, match="site lift: Steer must know which axis of the activation"):
        list(steered_rollout(forecaster, batch, 1, [Condition("a", (Edit("lift", Steer(direction, 0.1)),))]))
    keeps = Keeps(Site.parse("lift as b c h w"))
    list(steered_rollout(forecaster, batch, 1, [UNSTEERED], [keeps]))
    assert keeps.seen[0].shape == (2, 1, *batch.grid.shape, WIDTH)
    assert not any(module._forward_hooks for module in forecaster.network.modules())


@pytest.mark.filterwarnings("ignore")
def test_concepts_are_captured_along_channels(forecaster, batch, tiny_well, tmp_path):
    capture = Capture("re", ["blocks.0"], "Reynolds >= 2000", "Reynolds <= 500")
    natural = NaturalSpaces(["blocks.0"], directions=4, held_out=2)
    data = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=1, predict_split="train", batch_size=4)
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, callbacks=[capture, natural])
    trainer.predict(ForecastModule(forecaster), data, return_predictions=False)
    concept = Concept.load(tmp_path / "concepts/re_blocks.0.safetensors")
    assert concept.direction.shape == (*batch.grid.shape, WIDTH)
    with WindowDataset(f"{tiny_well}/data/train", WindowSpec(3, 1, every=None)) as windows:
        every = collate([windows[i] for i in range(len(windows))], n_input=3, metadata=windows.metadata)
    seen = []
    ActivationReader(forecaster, [SITE]).read(every, lambda site, h: seen.append(frame_sums(h)))
    high = every.parameters["Reynolds"] >= 2000
    truth = seen[0][high].mean(0) - seen[0][~high].mean(0)
    torch.testing.assert_close(concept.direction, truth.to(concept.direction.dtype), atol=1e-5, rtol=1e-4)
    assert (tmp_path / "natural/blocks.0.safetensors").is_file()

"""Any network as a forecaster: fields by name, the network's own numbers, shapes, identity, and what is refused."""

import copy

import pytest
import torch
from helpers.emulators import FIELDS, SETTINGS, emulator, forecaster
from torch import nn

from physteer.adapters import ViT
from physteer.analyses.engine import PrefixCache
from physteer.data.batch import collate
from physteer.data.dataset import WindowDataset, WindowSpec
from physteer.errors import PhysteerError
from physteer.forecast import FrameForecaster, NextStepMAE, staged
from physteer.interventions import Site, replayed, take_snapshots


@pytest.fixture(scope="module")
def batch(tiny_well):
    with WindowDataset(f"{tiny_well}/data/test", WindowSpec(3, 1, every=None)) as windows:
        return collate([windows[i] for i in range(2)], n_input=3, metadata=windows.metadata)


class Last(nn.Module):
    """Returns the network's fields of the last frame, whatever their order, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x[:, -1:]


@torch.no_grad()
@pytest.mark.parametrize("order", [FIELDS, FIELDS[::-1]])
def test_fields_are_found_by_name(batch, order):
    frames = FrameForecaster(Last(), order)
    inputs, scale = frames.inputs(batch.context, batch)
    names = batch.channels.names
    for i, name in enumerate(order):
        channel = names.index(name)
        torch.testing.assert_close(inputs.fields[:, :, i], (batch.context / scale.fields)[:, :, channel])
    frame = frames.predict_next(batch.context, batch)
    last = batch.context[:, -1:]
    moved = last + last / scale.fields * scale.differences
    evolving = [names.index(name) for name in order]
    torch.testing.assert_close(frame[:, :, evolving], moved[:, :, evolving])
    absent = names.index("velocity_z")
    assert torch.equal(frame[:, :, absent], last[:, :, absent]) and not frames.run(inputs)[:, :, absent].any()
    want = (batch.fields[:, -1:] - last) / scale.differences
    loss = (frames.run(inputs) - want)[:, :, batch.channels.predicted].abs().mean()
    torch.testing.assert_close(NextStepMAE()(frames, batch, 0), loss)
    (some,) = inputs.rows([1])
    assert torch.equal(some, inputs.fields[1:])


@torch.no_grad()
def test_a_network_of_other_numbers(batch):
    class Absolute(FrameForecaster):
        def normalised(self, fields, scale):
            return fields - 1

        def change(self, y, last, scale):
            return (y + 1 - last) / scale.differences

    frames = Absolute(Last(), FIELDS)
    torch.testing.assert_close(frames.predict_next(batch.context, batch), batch.context[:, -1:])
    change = frames.run(frames.inputs(batch.context, batch)[0])
    assert float(change.abs().max()) < 1e-3  # as far as float32 goes
    frames.network.weight.mul_(2)
    inputs, scale = frames.inputs(batch.context, batch)
    torch.testing.assert_close(
        frames.run(inputs),
        frames.next_frame(frames.network(*inputs), batch.context[:, -1:], scale, batch).sub(batch.context[:, -1:])
        / scale.differences,
        atol=1e-3,
        rtol=1e-4,
    )


@torch.no_grad()
def test_windows_of_one_frame_change_in_units_of_the_fields(batch):
    frames, last = FrameForecaster(Last(), FIELDS), batch.context[:, -1:]
    frame = frames.predict_next(last, batch)
    torch.testing.assert_close(frame[:, :, :4], 2 * last[:, :, :4])  # u + (u / r) r


def test_what_does_not_fit_is_refused(batch):
    with pytest.raises(PhysteerError, match=r"each once; found \['tracer', 'tracer'\]"):
        FrameForecaster(Last(), ["tracer", "tracer"])
    for name in SETTINGS:
        with pytest.raises(PhysteerError, match=f"{name} takes 4 fields, and fields names 2: tracer, density"):
            FrameForecaster(emulator(name), ["tracer", "density"])
    for fields in (("tracer", "density"), FIELDS[:2]):
        with pytest.raises(PhysteerError, match=rf"Last takes the fields {', '.join(fields)}; the data have tracer, "):
            FrameForecaster(Last(), fields).inputs(batch.context, batch)
    with pytest.raises(PhysteerError, match=r"ViT takes windows of 3 frames, found 2: set data.n_steps_input to 3"):
        forecaster("ViT").inputs(batch.context[:, 1:], batch)
    flat = FrameForecaster(nn.Sequential(Last(), nn.Flatten()), FIELDS)
    with pytest.raises(PhysteerError, match=r"Sequential must return .* \[N, 1, 4, H, W, D\]; it returned \[2, 8192\]"):
        flat.predict_next(batch.context, batch)
    with pytest.raises(PhysteerError, match="DAS needs a network that runs in stages; Last has no method 'encode'"):
        staged(FrameForecaster(Last(), FIELDS), "DAS")
    with pytest.raises(PhysteerError, match=r"site blocks.0.norm1: .* must know which axis"):
        forecaster("ViT").site_shapes([Site("blocks.0.norm1")], batch.metadata, 3)
    shifted = FrameForecaster(nn.Sequential(Last(), nn.Upsample(scale_factor=(1, 1, 1))), FIELDS)
    with pytest.raises(PhysteerError, match=r"no activation|not found"):
        shifted.site_shapes([Site("2 as b t c h w d")], batch.metadata, 3)


@pytest.mark.parametrize("name", SETTINGS)
def test_shapes_are_found_without_computing(batch, name):
    frames = forecaster(name)
    before = {key: value.clone() for key, value in frames.network.state_dict().items()}
    sites = ["encoder", *(f"blocks.{i}" for i in range(len(frames.network.blocks)))]
    seen: list[bool] = []
    hook = frames.network.blocks[0].register_forward_hook(lambda *_: seen.append(True))
    shapes = frames.site_shapes([Site(site) for site in sites], batch.metadata, 3)
    assert not seen, "hooks of others are not called"
    hook.remove()
    snapshots = take_snapshots(frames.network, sites, *frames.inputs(batch.context, batch)[0])
    for site, snapshot in snapshots.items():
        h = snapshot.activation
        assert shapes[site] == (1, *h.shape[1:4], 1, h.shape[-1])
        cells = [axis.tokens * axis.cells for axis in frames.token_grid(site, batch.metadata, 3)]
        assert cells == [*batch.grid.shape]
    assert all(torch.equal(value, before[key]) for key, value in frames.network.state_dict().items())
    assert all(not p.is_meta for p in frames.network.parameters())


def test_identity_follows_weights_settings_and_fields():
    names = [frames.identity for frames in (forecaster("ViT"), forecaster("ViT"), forecaster("ViT", seed=1))]
    assert names[0] == names[1] != names[2]
    other = copy.deepcopy(emulator("ViT"))
    assert FrameForecaster(other, FIELDS[::-1]).identity != names[0]
    with torch.no_grad():
        other.blocks[1].mlp[0].weight[3, 5] += 1e-6  # one number, anywhere
    assert FrameForecaster(other, FIELDS).identity != names[0]
    heads = ViT(**SETTINGS["ViT"] | {"heads": 4})
    heads.load_state_dict(emulator("ViT").state_dict())
    assert FrameForecaster(heads, FIELDS).identity != names[0], "as many weights, other heads"
    assert forecaster("ViT").source_version == forecaster("ViT", 1).source_version != forecaster("UNet").source_version


def test_skips_are_kept_by_the_cache_on_disk(batch, tmp_path, tiny_well):
    from helpers.emulators import pairs

    frames, data = forecaster("UNet"), pairs(tiny_well)
    frames.network.requires_grad_(False)
    drawn = data.pairs("train", data.rules, 2)
    rows = drawn.collate([drawn[0], drawn[1]])
    sites = [Site("blocks.1"), Site("blocks.2"), Site("blocks.4")]
    outputs = []
    for _ in range(2):
        cache = PrefixCache(frames, sites, last_frame=False, max_bytes=2**26, folder=tmp_path / "cache")
        prepared = cache.prepare(frames, rows)
        outputs.append([replayed(frames.network, cache.at(frames, site, prepared).base) for site in cache.sites])
    whole = frames.network(*frames.inputs(rows.base.context, rows.base)[0])
    for fresh, stored in zip(*outputs, strict=True):
        assert torch.equal(fresh, stored)
        torch.testing.assert_close(stored, whole)

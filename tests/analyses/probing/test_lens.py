"""The decoder lens ends in the network's own prediction, and on a trained network gets there by and by."""

import pytest
import torch
from helpers.walruses import MIXED, PERIODIC, fields, make, randomize
from helpers.wells import open_windows

from physteer import WalrusModule
from physteer.analyses.probing.lens import decoder_lens
from physteer.commands.data import main
from physteer.data import WindowSpec, collate
from physteer.forecast.walrus_forecaster import WalrusInputs
from physteer.metrics import vrmse


@torch.no_grad()
@pytest.mark.parametrize(("variant", "boundaries"), [("released", MIXED), ("preview", PERIODIC)])
def test_the_last_is_the_network_s_output(variant, boundaries):
    walrus = randomize(make(variant))
    x = fields(2, 3, 2, 16, 32, 1)
    labels = [3, 4]
    decoded = list(decoder_lens(walrus, WalrusInputs(x, labels, boundaries, None)))
    assert len(decoded) == 4 and all(one.shape == (2, 1, 2, 16, 32, 1) for one in decoded)
    torch.testing.assert_close(decoded[-1], walrus(x, labels, boundaries, last_frame_only=True))
    assert (decoded[0] - decoded[-1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_demo_s_prediction_forms_in_its_blocks(tmp_path):
    words = ["--reynolds", "500", "--schmidt", "1", "--initial-conditions", "1", "--valid", "0", "--test", "0"]
    assert main(["shear-flow", str(tmp_path), *words, "--frames", "9"]) == 0
    module = WalrusModule(checkpoint="physteer://walrus-demo").eval()
    with open_windows(tmp_path / "data/train", WindowSpec(5, 1)) as windows:
        batch = collate([windows[i] for i in (0, 3)], n_input=5, metadata=windows.metadata)
    inputs, scale = module.forecaster.inputs(batch.context, batch)
    scored = batch.channels.predicted
    errors = []
    for y in decoder_lens(module.network, inputs):
        frame = batch.context[:, -1:] + y * scale.differences
        errors.append(vrmse(frame[:, :, scored], batch.targets[:, :1, scored]).mean().item())
    assert len(errors) == len(module.network.blocks) + 1
    assert errors[-1] == min(errors) and errors[-1] < 0.5 * errors[0]

"""Simple flows: the simulator reproduces their exact values, and what is written reads back as them."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.wells import open_windows

from physteer.commands.data import main
from physteer.data import ShearFlowState, collate, simulate
from physteer.data.generate_simple import SIMPLE_FLOWS
from physteer.data.normalised import normalised_flow, transport
from physteer.data.shear_flow import LENGTHS
from physteer.data.simple_flows import stacked
from physteer.errors import PhysteerError
from physteer.forecast.rollout import sample_scale
from physteer.metrics import TokenAxis, token_targets

TINY = ["--resolution", "32", "64", "--frames", "6", "--initial-conditions", "3", "--valid", "1", "--test", "0"]
TINY += ["--reynolds", "100", "1000", "--schmidt", "0.5", "2", "--seed", "3"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("simple")
    for name in SIMPLE_FLOWS:
        assert main([name.replace("_", "-"), str(root / name), *TINY]) == 0
    return {name: root / name for name in SIMPLE_FLOWS}


@pytest.mark.parametrize("name", SIMPLE_FLOWS)
def test_the_simulator_reproduces_the_exact_solution(name):
    reynolds, schmidt = 200.0, 0.5
    flows = SIMPLE_FLOWS[name](6, (5,))
    start = stacked(flows, 0.0, (32, 64), reynolds, schmidt)
    runs = [torch.full((6,), value) for value in (reynolds, schmidt)]
    for frame in simulate(ShearFlowState(start.velocity, start.tracer), *runs, 5, 0.25):
        exact = stacked(flows, frame.time, (32, 64), reynolds, schmidt)
        for field in ("velocity", "tracer", "pressure"):
            assert (getattr(frame, field) - getattr(exact, field)).abs().max() < 1e-5, field
    assert (exact.tracer - start.tracer).abs().amax((1, 2)).min() > 0.01  # it did change


def test_initial_conditions_depend_on_seed_and_number_alone():
    for draw in SIMPLE_FLOWS.values():
        assert draw(5, (0, 1))[:2] == draw(2, (0, 1))
        assert len({*draw(5, (0, 1)), *draw(5, (0, 2))}) == 10


@pytest.mark.parametrize("name", SIMPLE_FLOWS)
def test_files_hold_the_exact_values(folders, name):
    assert len(list(folders[name].rglob("*.hdf5"))) == 8  # 4 pairs of parameters in train and valid
    path = folders[name] / "data/train" / f"{name}_Reynolds_1e2_Schmidt_2e0.hdf5"
    flows = SIMPLE_FLOWS[name](3, (3, 0))
    with h5py.File(path) as file:
        assert file.attrs["dataset_name"] == "simple_flows"
        for index in (0, 5):
            exact = stacked(flows, 0.25 * index, (32, 64), 100, 2)
            for field, stored in (("velocity", "t1_fields/velocity"), ("tracer", "t0_fields/tracer")):
                assert np.allclose(file[stored][:, index], getattr(exact, field), atol=1e-6)
    with open_windows(folders[name] / "data/train") as windows:
        assert windows.metadata.channels.names == ("tracer", "pressure", "velocity_x", "velocity_y", "velocity_z")
        assert windows.metadata.grid.periodic == (True, True, True) and windows[0].parameters["Schmidt"] == 2


def test_targets_of_windows_read_back_are_the_exact_ones(folders):
    """From the file through the reader and the network's scales to tokens, against the vortices' formula."""
    flows = SIMPLE_FLOWS["taylor_green"](3, (3, 0))
    with open_windows(folders["taylor_green"] / "data/train") as windows:
        rows = [i for i, one in enumerate(windows.windows) if one.start == 2 and "1e3_Schmidt_5e-1" in one.file]
        batch = collate([windows[i] for i in rows], n_input=2, metadata=windows.metadata)
    scale = sample_scale(batch.context, 1e-7).fields
    grid = (TokenAxis(4, 8), TokenAxis(8, 8), TokenAxis(1))
    names = ["vorticity", "tracer_gradient", "log_viscosity", "log_diffusivity"]
    found = token_targets(names, normalised_flow(batch, scale), grid).double()
    x = torch.arange(32, dtype=torch.float64)[:, None] / 32
    y = -1 + torch.arange(64, dtype=torch.float64)[None] / 32
    for row, flow in enumerate(flows):
        kx, ky = (2 * math.pi * mode / length for mode, length in zip(flow.modes, LENGTHS, strict=True))
        time = 0.5 + 0.25  # start 2, last frame
        a = kx * (x - flow.mean_flow[0] * time) + flow.phases[0]
        b = ky * (y - flow.mean_flow[1] * time) + flow.phases[1]
        psi = flow.speed / max(kx, ky) * math.exp(-1e-3 * (kx**2 + ky**2) * time)
        r = dict(zip(batch.channels.names, scale[row, 0, :, 0, 0, 0].tolist(), strict=True))
        vorticity = psi * (kx**2 / r["velocity_y"] + ky**2 / r["velocity_x"]) * a.sin() * b.sin()
        decayed = 0.5 * math.exp(-2e-3 * (kx**2 + ky**2) * time) / r["tracer"]
        gradient = decayed * ((kx * a.cos() * b.sin()).square() + (ky * a.sin() * b.cos()).square()).sqrt()
        for i, cells in enumerate((vorticity, gradient)):
            truth = cells.view(4, 8, 8, 8).mean((1, 3))
            assert (found[row, 1, :, :, 0, i] - truth).abs().max() < 1e-4 * truth.abs().max()
    assert torch.allclose(found[..., 2], torch.tensor(-3.0).double())
    assert torch.allclose(found[..., 3], torch.tensor(2e-3).log10().double())


def test_parameters_tell_viscosity_and_diffusivity():
    one = torch.ones(2, dtype=torch.float64)
    assert [x.tolist() for x in transport({"Reynolds": 100 * one, "Schmidt": 2 * one})] == [[0.01] * 2, [0.005] * 2]
    viscosity, diffusivity = transport({"Rayleigh": 1e6 * one, "Prandtl": 4 * one})
    assert torch.allclose(viscosity, 2e-3 * one) and torch.allclose(diffusivity, 5e-4 * one)
    assert transport({"Mach": one}) == (None, None)
    assert transport({"Reynolds": one})[1] is None


def test_a_second_run_keeps_files_and_other_settings_are_refused(folders, tmp_path, capsys):
    assert main(["diffusion", str(tmp_path), *TINY]) == 0
    (tmp_path / "data/valid/diffusion_Reynolds_1e2_Schmidt_5e-1.hdf5").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    capsys.readouterr()
    assert main(["diffusion", str(tmp_path), *TINY]) == 0
    assert "1 files written, 7 kept" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    for one, other in zip(sorted(tmp_path.rglob("*.*")), sorted(folders["diffusion"].rglob("*.*")), strict=True):
        assert one.name == other.name and one.stat().st_size == other.stat().st_size
    with pytest.raises(PhysteerError, match=r"was made with dt 0\.25, not 0\.5"):
        main(["diffusion", str(tmp_path), *TINY, "--dt", "0.5"])
    assert main(["advection", str(tmp_path), *TINY, "--dt", "0.5"]) == 0  # beside it
    with open_windows(tmp_path / "data/train") as windows:
        assert len(windows.files) == 8
    with pytest.raises(PhysteerError, match="names a value twice"):
        main(["advection", str(tmp_path), "--schmidt", "1", "1"])

"""Run folders with rollouts that are simulated, restarted at another viscosity as if steered, and really written."""

import shutil

import pytest
import torch

from physteer.analyses.steering.run_tables import complete_tables
from physteer.analyses.steering.table import Series
from physteer.data.module import WellDataModule
from physteer.data.rollout_files import write_rollout
from physteer.data.shear_flow import ShearFlowState, simulate
from physteer.reports import read_rollouts

N_CONTEXT, N_STEPS = 4, 7
STRENGTHS = (-0.4, 0.2, 0.4)
SERIES = Series("vortex", "drop", "blocks.3")


def restarted(batch, factor):
    """Return frames [B, T, C, H, W, D] simulated from the last one given, at another Reynolds number."""
    names = batch.channels.names
    last = batch.context[:, -1, ..., 0]
    velocity = torch.stack([last[:, names.index(f"velocity_{axis}")] for axis in "xy"], -1)
    state = ShearFlowState(velocity, last[:, names.index("tracer")])
    reynolds, schmidt = batch.parameters["Reynolds"] * factor, batch.parameters["Schmidt"]
    frames = torch.zeros_like(batch.targets)
    dt = float(batch.times[0, 1] - batch.times[0, 0])
    for step, frame in enumerate(simulate(state, reynolds, schmidt, N_STEPS + 1, dt)):
        if step:
            values = {"tracer": frame.tracer, "pressure": frame.pressure}
            values |= {f"velocity_{axis}": frame.velocity[..., i] for i, axis in enumerate("xy")}
            for name, value in values.items():
                frames[:, step - 1, names.index(name), ..., 0] = value
    return frames


@pytest.fixture(scope="session")
def finished_run(tiny_well, tmp_path_factory):
    """A run folder with truth, unsteered (Reynolds a tenth too small) and three strengths of four windows."""
    run = tmp_path_factory.mktemp("runs") / "steer <demo>"
    data = WellDataModule(str(tiny_well), n_steps_input=N_CONTEXT, rollout_steps=N_STEPS, include=["Schmidt_5e-1"])
    for batch in data.predict_dataloader():
        conditions = {"truth": (0.0, batch.targets), "unsteered": (0.0, restarted(batch, 0.9))}
        for strength in STRENGTHS:
            conditions[f"vortex drop {strength:+g}"] = (strength, restarted(batch, 0.9 * 10**strength))
        for name, (strength, frames) in conditions.items():
            steered = dict(zip(("direction", "mode", "site"), vars(SERIES).values(), strict=True)) if strength else {}
            attributes = {"condition": name, "strength": strength, "direction": "", "mode": "", "site": ""} | steered
            for row, window in enumerate(batch.windows):
                path = run / "rollouts" / name.replace(" ", "_") / "data" / "test" / f"{window}.hdf5"
                write_rollout(path, batch, row, frames[row], attributes)
    data.teardown("predict")
    (run / "config.yaml").write_text("model:\n  checkpoint: <somewhere>\n")
    (run / "environment.json").write_text('{"seed": 3, "stage": "predict", "versions": {"physteer": "0.1.0"}}')
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / finished_run.name)


@pytest.fixture(scope="session")
def windows(finished_run):
    return read_rollouts(finished_run)


@pytest.fixture(scope="session")
def measured_run(finished_run, tmp_path_factory):
    """The same with its tables."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "measured")
    complete_tables(folder)
    return folder

"""`physteer sites`, and what a Walrus calls its sites."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.channels_first import WIDTH, ConvolutionForecaster
from helpers.experiments import NETWORK, experiment, random_walrus, weights

from physteer import ForecastModule, WalrusModule
from physteer.cli import main
from physteer.errors import PhysteerError
from physteer.interventions import Site, captured, site_names
from physteer.walrus import load
from physteer.walrus.sites import output_shapes


@pytest.fixture
def config(tmp_path, tiny_well):
    model = {"checkpoint": str(weights(tmp_path / "walrus.safetensors"))}
    return experiment(tmp_path / "run.yaml", model=model, data={"path": str(tiny_well), "rollout_steps": 2})


def test_every_site_of_a_walrus_has_an_activation():
    walrus = random_walrus()
    names = site_names(walrus)
    assert len(names) == len(set(names)) == 1 + 2 * 8
    with captured(walrus, names) as h, torch.no_grad():
        walrus(torch.randn(1, 3, 1, 32, 64, 1), [7], ((2, 2),) * 3)
    assert h.keys() == set(names)
    order = [names.index(f"blocks.1.{tap}") for tap in ("time.heads", "time.update", "time", "space.heads")]
    assert order == sorted(order) and names[0] == "encoder" and names[-1] == "blocks.1"


def test_shapes_of_inputs_are_known_without_computing():
    walrus, x = random_walrus(), torch.randn(1, 3, 1, 32, 64, 1)
    names = ["blocks.1.input", "blocks.0.space.heads.input", "blocks.1.time.out.input", "decoder.input", "blocks.1"]
    with captured(walrus, [Site(name, layout="b ... d") for name in names]) as h, torch.no_grad():
        walrus(x, [7], ((2, 2),) * 3)
    shapes = output_shapes(walrus.config, names, 3, ["pressure"], (32, 64, 1), ((2, 2),) * 3)
    assert {name: shape[1:].numel() for name, shape in shapes.items()} == {name: h[name][0].numel() for name in names}


def listing(text):
    return {
        line.split()[0]: (json.loads(re.search(r"\[.*\]", line)[0]), float(line.split()[-1]))
        for line in text.splitlines()[1:-2]
    }


def test_lists_names_shapes_and_memory(config, capfd):
    assert main(["sites", "--config", str(config)]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    sites = listing(said.out)
    assert tuple(sites) == site_names(random_walrus())
    assert sites["encoder"] == ([1, 3, 8, 8, 1, 32], 0.02)
    assert sites["blocks.0.space.heads"][0] == [1, 3, 8, 8, 1, 2, 16]
    assert sites["blocks.1.space.ff_hidden"] == ([1, 3, 8, 8, 1, 64], 0.05)
    total, hint = said.out.splitlines()[-2:]
    assert total == "17 sites, together 0.47 MB per window; blocks.* together 0.05 MB per window"
    assert "SITE[2]" in hint and "SITE as b c h w" in hint


class Convolutional(ForecastModule):
    """A user's own emulator, which knows some layouts and does not call all of its modules."""

    def __init__(self) -> None:
        forecaster = ConvolutionForecaster(("tracer", "pressure"))
        forecaster.output_shapes = lambda modules, metadata, n_frames: {
            name: torch.Size((1, WIDTH, *metadata.grid.shape[:2])) for name in modules if name != "blocks.1.1"
        }
        super().__init__(forecaster)


def test_any_forecaster_without_a_configuration(tiny_well, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", f"{__name__}.Convolutional", "--data.path", str(tiny_well), "--data.n_steps_input", "3"]
    assert main(["sites", *words, "--json"]) == 0
    rows = {row["site"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows["blocks.0"] == {
        **{"site": "blocks.0", "layout": "b c h w", "shape": [1, WIDTH, 32, 64], "megabytes": 0.131072}
    }
    assert rows["lift"]["layout"] is None and rows["blocks.1.1"]["shape"] is None
    assert main(["sites", *words]) == 0
    lines = {line.split()[0]: line.split() for line in capfd.readouterr().out.splitlines()}
    assert lines["lift"][1] == "unknown" and lines["blocks.1.1"][-3:] == ["never", "called", "-"]
    assert not list(tmp_path.iterdir())


def test_stored_weights_are_not_read(tmp_path, capfd):
    """A file whose values are damaged has the same sites; to load it is refused."""
    path = weights(tmp_path / "walrus.safetensors")
    content = bytearray(path.read_bytes())
    content[-100:] = b"x" * 100
    path.write_bytes(content)
    words = ["--model.checkpoint", str(path), "--grid", "32", "64", "1"]
    assert main(["sites", *words, "--model.lora", "an adapter changes no shape"]) == 0
    assert tuple(listing(capfd.readouterr().out)) == site_names(random_walrus())
    with pytest.raises(PhysteerError, match="is damaged"):
        load(path)
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in WalrusModule(str(path)).network.parameters())


def test_settings_override_the_configuration(config, capfd):
    grid = ["--grid", "64", "32", "1"]
    assert main(["sites", "--config", str(config), *grid, "--data.n_steps_input", "2"]) == 0
    assert listing(capfd.readouterr().out)["blocks.0"][0] == [1, 2, 8, 8, 1, 32]
    assert main(["sites", "--config", str(config), "--grid", "33", "64", "1"]) == 2
    assert capfd.readouterr().err == (
        "physteer: error: axis H has 33 cells; with 8 tokens per axis it may have 8, 32, 64, 96, 128, 192, 256\n"
    )


def test_nothing_of_the_run_is_made(config, tmp_path):
    settings = yaml.safe_load(config.read_text())
    settings["trainer"] |= {"devices": 8, "accelerator": "gpu", "default_root_dir": str(tmp_path / "run")}
    settings["model"]["init_args"] = {"network": NETWORK, "jitter_seed": 0}
    config.write_text(yaml.safe_dump(settings))
    before = set(tmp_path.iterdir())
    assert main(["sites", "--config", str(config)]) == 0
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_the_published_size_takes_no_memory(tmp_path):
    config = experiment(tmp_path / "full.yaml", model={"network": {}}, data={"path": "nowhere", "n_steps_input": 6})
    script = (
        "import sys; from physteer.cli import main\n"
        "status = main(sys.argv[1:])\n"
        # not getrusage: its peak also counts the process that this one was forked from
        "print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
        "sys.exit(status)"
    )
    words = ["sites", "--config", str(config), "--grid", "256", "512", "1"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sites = listing(done.stdout)
    assert len(sites) == 321 and sites["blocks.39"] == ([1, 6, 32, 32, 1, 1408], 34.6)
    assert int(done.stderr.split("peak")[-1]) * 1024 < 1.5e9  # the weights alone would be 5.3 GB

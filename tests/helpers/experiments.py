"""Small experiments through the real command line: a random two-block Walrus on the tiny shear-flow data set."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from helpers.paths import importing
from physteer.concepts import Concept
from physteer.tensor_files import read_tensors, write_tensors
from physteer.walrus import Walrus, WalrusConfig, save

FIELDS = (
    "closed_boundary",
    "open_boundary",
    "bias_correction",
    "pressure",
    "velocity_x",
    "velocity_y",
    "velocity_z",
    "tracer",
)
CONFIG = WalrusConfig(
    fields=FIELDS,
    dimensions=(2,),
    hidden_dim=32,
    intermediate_dim=8,
    n_blocks=2,
    n_heads=2,
    tokens_2d=8,
    n_steps_input=3,
)
NETWORK = {
    name: getattr(CONFIG, name) for name in ("hidden_dim", "intermediate_dim", "n_blocks", "n_heads", "tokens_2d")
}
NETWORK |= {"fields": list(FIELDS), "dimensions": [2], "n_steps_input": 3}


def random_walrus(seed: int = 0) -> Walrus:
    """A network that does something: the last convolution of a fresh one is nearly zero."""
    torch.manual_seed(seed)
    walrus = Walrus(CONFIG)
    with torch.no_grad():
        for debed in walrus.decoder.debed.values():
            debed.proj2.mul_(10)
    return walrus


def weights(path: Path, seed: int = 0) -> Path:
    """Write the weights of `random_walrus`."""
    save(random_walrus(seed), path)
    return path


def concept(path: Path, shape: tuple[int, ...] = (8, 8, 1, 32), site: str = "blocks.0") -> Path:
    """Write a random direction, which fits `random_walrus` on the tiny data set unless told otherwise."""
    generator = torch.Generator().manual_seed(0)
    Concept(torch.randn(shape, generator=generator), site).save(path)
    return path


def weights_and_concept(folder: Path) -> Path:
    """Write ``walrus.safetensors`` and ``concept.safetensors`` for it into a folder."""
    weights(folder / "walrus.safetensors")
    concept(folder / "concept.safetensors")
    return folder


def experiment(path: Path, *, model: dict, data: dict, callbacks: list | None = None, **trainer) -> Path:
    """Write a configuration."""
    listed = [c if isinstance(c, dict) else {"class_path": c} for c in callbacks or []]
    settings = {
        "model": {"class_path": "physteer.WalrusModule", "init_args": model},
        "data": {"class_path": "physteer.WellDataModule", "init_args": {"n_steps_input": 3, **data}},
        "trainer": {"accelerator": "cpu", "devices": 1, "callbacks": listed, **trainer},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings))
    return path


def callback(class_path: str, /, **arguments) -> dict:
    """A callback of a configuration."""
    return {"class_path": class_path, "init_args": arguments}


def in_two_processes(*words: object) -> list[str]:
    """The command line of physteer on two processes of this machine."""
    return [sys.executable, "-m", "physteer", *map(str, words), "--trainer.devices", "2", "--trainer.strategy", "ddp"]


def two_processes(
    folder: Path, *words: object, then: Sequence[object] = (), status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run physteer in two processes, with the words of a second command in the same two, and see that it ends so."""
    environment = importing(__file__) | {"OMP_NUM_THREADS": "1"}
    command = in_two_processes(*words)
    if then:
        more = in_two_processes(*then)
        command = [*more[:2], "helpers.command_lines", *command[3:], "then", *more[3:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def finished(run: Path) -> list[str]:
    """The windows that a run folder's journal lists."""
    found: list[str] = []
    for path in run.glob("journal/*.safetensors"):
        found += read_tensors(path, "journal", 1)[1]["windows"]
    return found


def forget(run: Path, window: str) -> None:
    """Take a window, which is in no running sum, off the journal, as if the run had been killed before it."""
    for path in run.glob("journal/*.safetensors"):
        sums, described = read_tensors(path, "journal", 1)
        write_tensors(path, "journal", 1, sums, {"windows": [name for name in described["windows"] if name != window]})

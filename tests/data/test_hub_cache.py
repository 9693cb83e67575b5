"""Data sets on the hub where it does not answer: the cache's copy is read, or one line says how to get one."""

import shutil
import time

import pytest
from huggingface_hub import constants

from physteer.data import WellDataModule
from physteer.errors import PhysteerError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of a hub that does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def test_the_cached_copy_is_read(hub, tiny_well):
    repository = hub / "datasets--polymathic-ai--shear_flow"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_well / "data" / "test", snapshot / "data" / "test")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    began = time.monotonic()
    data = WellDataModule("hf://datasets/polymathic-ai/shear_flow", n_steps_input=3, rollout_steps=2)
    with pytest.warns(UserWarning, match=r"cannot be reached: .*shear_flow/data/test is \d+ files of its"):
        cached = data.predict_dataset()
    local = WellDataModule(str(tiny_well), n_steps_input=3, rollout_steps=2).predict_dataset()
    assert cached.windows == local.windows
    assert bool((cached[0].fields == local[0].fields).all())
    assert time.monotonic() - began < 10
    data.teardown("")


def test_without_a_copy_one_line_says_how_to_get_one(hub):
    began = time.monotonic()
    with pytest.raises(PhysteerError, match="not in the local cache, and the hub cannot be reached") as error:
        WellDataModule("hf://datasets/polymathic-ai/shear_flow@v1").predict_dataset()
    command = "hf download polymathic-ai/shear_flow --include 'data/test/*' --repo-type dataset --revision v1"
    assert f"run `{command}`; with HF_HUB_OFFLINE=1" in str(error.value)
    assert time.monotonic() - began < 10

"""Is what a probe reads used? Rollouts without it."""

from __future__ import annotations

import lightning as L

from physteer.analyses.steering.table import ERASED
from physteer.callbacks.base import ConditionCallback, forecast_module
from physteer.callbacks.windows import window_shapes
from physteer.concepts import CausalBasis, LeaceEraser
from physteer.errors import PhysteerError
from physteer.files import matching_files
from physteer.forecast import Forecaster
from physteer.interventions import Condition, Edit, Role, Site


class Erase(ConditionCallback):
    """Erase quantities from activations at every step of a rollout, one condition per file.

    A quantity that probes read need not be used by the model. If it is, erasing it moves rollouts further than erasing
    random directions does, as many and drawn as activations vary; ``Diagnostics`` measures both. The eraser is LEACE's:
    no linear probe reads the quantity any more, and activations change as little as that allows.

    Args:
        erasers: files that ``Probe`` wrote, ``RUN/erasers/<site>_<target>.safetensors``, each for the site it was
            fitted at; patterns with ``*`` too. Of a causal basis, ``RUN/basis/<site>.safetensors``, all directions are
            ablated together: their components get the mean's values, or 0 in the mode ``zero``.
        random: files or patterns of random erasers, ``RUN/erasers/<site>_random_*.safetensors``.
    """

    def __init__(self, erasers: list[str], random: list[str] = []) -> None:  # noqa: B006  as in the docs
        super().__init__()
        if not erasers:
            raise PhysteerError("Erase.erasers must name one or more files; found none")
        self.erasers, self.random = erasers, random

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the files, check that they fit, and give the module one condition for each."""
        module = forecast_module(pl_module, "Erase")
        found = [(path, "concept") for path in matching_files("Erase.erasers", self.erasers)]
        found += [(path, "random") for path in matching_files("Erase.random", self.random)]
        self.add(module, [_condition(trainer, module.forecaster, path, role) for path, role in found])  # type: ignore[arg-type]


def _condition(trainer: L.Trainer, forecaster: Forecaster, path: str, role: Role) -> Condition:
    eraser, what = _read(path)
    model = forecaster.identity
    if eraser.model and eraser.model != model:
        raise PhysteerError(f"eraser {path} was fitted on model {eraser.model}; this model is {model}")
    site = Site.parse(eraser.site)
    width = window_shapes(trainer, forecaster, [site])[site][-1]
    if width != len(eraser.read):
        raise PhysteerError(f"eraser {path} is of width {len(eraser.read)}; activations at {site} have {width}")
    return Condition(f"erase {what} at {site}", (Edit(site, eraser.replacement()),), what, 1.0, ERASED, role)


def _read(path: str) -> tuple[LeaceEraser | CausalBasis, str]:
    """Read an eraser or a causal basis; also return what it erases."""
    if CausalBasis.is_kind_of(path):
        basis = CausalBasis.load(path)
        return basis, f"{basis.k} causal direction{'s' if basis.k > 1 else ''}"
    eraser = LeaceEraser.load(path)
    return eraser, " + ".join(eraser.targets)

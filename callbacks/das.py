"""Training of rotated interventions on a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor, nn

from physteer.concepts import Concept
from physteer.das import FieldLoss, InterchangeEvaluation, InterchangeObjective, Prefixes, make_arms
from physteer.das.arms import Arm, ArmPlan
from physteer.data.pair_module import CounterfactualDataModule
from physteer.errors import PhysteerError
from physteer.interventions import Locus, Site
from physteer.module import WalrusModule
from physteer.reports.html import write_report
from physteer.reports.interchange import draw_field_bars, draw_recovery_map
from physteer.reports.interchange_table import InterchangeScore, interchange_text, write_interchange_table
from physteer.walrus import model_id

MEBIBYTE = 2**20


class DAS(L.Callback):
    """Learn in which subspace of an activation a variable lives (distributed alignment search).

    ``fit`` freezes the network and trains rotations R on pairs of windows (base, source) whose counterfactual is known:
    h' = h_b + (h_s − h_b) R Rᵀ at a site, so that the prediction becomes what the base would do with the source's value
    of the variable. Every site and rank of the run is trained side by side, each for itself, with the controls beside:
    rotations trained on shuffled pairs, random rotations, given directions, and everything exchanged. After ``fit`` the
    best checkpoint is scored on the pairs of ``test``.

    Tables, figures and, for every site and rank, the learned direction as a concept for ``Steer`` land in the run
    folder.

    Args:
        sites: where, such as ``blocks.1``.
        ranks: dimensions of the rotations to learn, per variable.
        frames: frames of the context that are exchanged, such as ``[-1]`` for the last, which is also the cheapest:
            only that frame is run through the rest of the network. Null for all.
        boundless: learn a rotation of unknown size too, at every site; its cost is d³ per step.
        loss: what the edited prediction should achieve: ``FieldLoss``, ``ReadoutLoss``, or a class path of your own.
        shuffled: train a second rotation on shuffled pairs beside each: what it recovers is not the variable's.
        random: random rotations to compare each rank with.
        directions: concept files to compare with, at the sites they are of.
        price: λ, the price of a boundless rotation's share of the columns.
        cache: mebibytes of memory, or disk, for what the network computes before each site.
        cache_folder: where that is kept for later runs; null for memory.
        seed: of the rotations' first values.
    """

    test_after_fit = True
    """For the command line: choices are made on ``valid``, results come from ``test``."""

    def __init__(
        self,
        sites: list[str],
        ranks: list[int],
        frames: list[int] | None = None,
        boundless: bool = False,
        loss: nn.Module | None = None,
        shuffled: bool = True,
        random: int = 3,
        directions: list[str] = [],  # noqa: B006  jsonargparse shows it; never changed
        price: float = 1.0,
        cache: int = 1024,
        cache_folder: str | None = None,
        seed: int = 0,
    ) -> None:
        if not sites or len(set(sites)) < len(sites):
            raise PhysteerError(f"DAS.sites must name one or more different sites; found {sites}")
        if (not ranks and not boundless) or len(set(ranks)) < len(ranks):
            raise PhysteerError(f"DAS.ranks must be different numbers, or boundless true; found {ranks}")
        if random < 0 or cache < 0:
            raise PhysteerError(f"DAS.random and DAS.cache must be at least 0; found {random} and {cache}")
        self.sites = [Site.parse(site) for site in sites]
        self.plan = ArmPlan(tuple(ranks), boundless, shuffled, random, seed=seed)
        self.frames, self.locus = frames, Locus(frames=frames)
        self.loss: nn.Module = FieldLoss() if loss is None else loss
        self.directions, self.price, self.cache = directions, price, cache
        self.cache_folder = None if cache_folder is None else Path(cache_folder)
        self._variables: tuple[str, ...] = ()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network, make the rotations, and put objective and evaluation on the module."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, WalrusModule) or not isinstance(data, CounterfactualDataModule):
            raise PhysteerError("DAS needs pairs: set data.class_path to physteer.CounterfactualDataModule")
        if stage == "predict":
            raise PhysteerError("DAS trains (fit) and scores (validate, test); in predict, Steer uses what it learned")
        if pl_module.interventions:
            return  # of the fit before this test
        pl_module.freeze_network()
        self._variables = data.rules.variables
        windows = data.pair_windows("train" if stage == "fit" else "valid" if stage == "validate" else "test")
        shapes = pl_module.site_shapes(self.sites, windows.origin, windows.spec.n_input)
        widths = {site: shape[-1] for site, shape in shapes.items()}
        arms = make_arms(widths, len(self._variables), self.plan, self._given(pl_module))
        pl_module.interventions.update({arm.key: arm for arm in arms})
        last = self.frames in ([-1], [windows.spec.n_input - 1])
        causal = pl_module.network.config.causal_in_time
        prefixes = Prefixes(
            pl_module, self.sites, last_frame=last and causal, max_bytes=self.cache * MEBIBYTE, folder=self.cache_folder
        )
        objective = InterchangeObjective(
            arms, prefixes, self.loss, self.locus, by_mean=not data.rules.same_initial_condition, price=self.price
        )
        pl_module.objective, pl_module.evaluation = objective, InterchangeEvaluation(arms, objective)
        if trainer.is_global_zero and stage == "fit":
            print(f"pairs of train: {data.pairs('train', data.rules, 1).report()}")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lower the temperature of boundless rotations."""
        progress = min(trainer.global_step / max(float(trainer.estimated_stepping_batches), 1.0), 1.0)
        for arm in _arms(pl_module):
            for rotation in arm.boundless:
                rotation.anneal(progress)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of ``valid``."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "valid")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of ``test``, and its figures."""
        self._write(trainer, pl_module, "test")

    def _given(self, pl_module: WalrusModule) -> dict[str, tuple[Site, Tensor]]:
        """Read the directions to compare with, as means over space."""
        found = {}
        for path in self.directions:
            concept = Concept.load(path)
            own = model_id(pl_module.network)
            if concept.model and concept.model != own:
                raise PhysteerError(f"direction {path} was measured on model {concept.model}; this model is {own}")
            found[Path(path).stem] = Site.parse(concept.site), concept.direction.mean(dim=(0, 1, 2))
        return found

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        assert isinstance(pl_module, WalrusModule) and isinstance(pl_module.evaluation, InterchangeEvaluation)
        rows = pl_module.evaluation.table()  # on every process: it adds up over them
        if not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        write_interchange_table(run, split, rows)
        if trainer.state.fn == "fit":
            pl_module.print(f"step {trainer.global_step}: {_in_brief(rows)}", flush=True)
            return
        draw_recovery_map(rows, self._variables, run / "figures" / f"recovery_{split}.png")
        draw_field_bars(rows, self._variables, run / "figures" / f"recovery_fields_{split}.png")
        pl_module.print(f"{interchange_text(self._variables, split, rows)}\nreport: {write_report(run)}", flush=True)


def _in_brief(rows: Sequence[InterchangeScore]) -> str:
    """Return the largest recovery of each kind."""
    means = [row for row in rows if (row.metric, row.field) == ("recovery", "")]
    best = {row.kind: row for row in sorted(means, key=lambda row: row.value)}
    where = {kind: f" ({row.site})" if row.site else "" for kind, row in best.items()}
    return "recovery " + ", ".join(f"{kind} {row.value:+.2f}{where[kind]}" for kind, row in best.items())


def _arms(pl_module: L.LightningModule) -> list[Arm]:
    assert isinstance(pl_module, WalrusModule)
    return [arm for arm in pl_module.interventions.values() if isinstance(arm, Arm)]

"""Linear probes on a frozen network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from physteer.analyses.probing import ProbeEvaluation, ProbeFit, ProbeReader, ProbeWindows
from physteer.analyses.probing.class_table import write_class_table
from physteer.analyses.probing.erasers import erasers
from physteer.analyses.probing.fitting import selected
from physteer.analyses.probing.table import write_probe_tables
from physteer.callbacks.base import check_alone, data_module, forecast_module, scores_of
from physteer.data.transfer_module import TransferDataModule
from physteer.errors import PhysteerError
from physteer.files import file_name
from physteer.interventions import Site
from physteer.metrics import TARGETS
from physteer.reports import write_page
from physteer.reports.probe_report import probes_text, report_probes


class Probe(L.Callback):
    """Learn what can be read off which layers, on simple flows, and test it on full simulations if there are some.

    ``fit`` freezes the network and reads the training windows once: ridge regression has a closed form, so there is no
    optimiser, no step and no checkpoint; a run that was interrupted begins anew. Every site is probed for every target,
    per token and pooled over frames. The penalty of each is chosen on ``valid``; scores are of ``test`` and of full
    simulations, beside controls: targets of other windows, the raw cells of the token, and random features of them.

    Targets are flow quantities in the units the network sees: its fields are divided by their RMS over the window.
    Classes are the values of a parameter in ``train``: linear discriminant analysis tells them apart, from the mean of
    a frame's tokens, every frame of the context being a sample. Its penalty is that of the smallest cross-entropy on
    ``valid``. Its controls are the same, and chance: the share of the commonest class. Windows whose value ``train``
    has not are left out of accuracies, with a warning; data that have no other windows are refused.

    In the run folder: ``tables/probes.csv``; ``probes/<site>_<token or pooled>.safetensors``;
    ``tables/class_probes.csv``; ``probes/<site>_<parameter>_classes.safetensors``;
    ``erasers/<site>_<target>.safetensors`` for the ``Erase`` callback, with random ones beside; predictions for every
    layer, frame and token of some trajectories in ``maps/``; ``tables/decoder_lens.csv``, the error of each depth's
    activation decoded; figures and ``report.html``.

    Args:
        sites: where: ``encoder``, ``blocks.3`` or what is inside blocks.
        targets: what to look for; null for nothing but classes; empty for all: ``vorticity``, ``speed_squared``,
            ``kinetic_energy``, ``shear_rate``, ``dissipation_rate``, ``tracer_gradient``, ``pressure``,
            ``log_viscosity``, ``log_diffusivity``.
        classes: parameters of the data whose values are told apart, such as ``Reynolds``.
        alphas: penalties to choose from, of ridge regression as in scikit-learn.
        maps: trajectories of each data set whose predictions are kept and drawn.
        random_erasers: per site, for comparison; 19 are the fewest with which p ≤ 0.05 is possible.
        seed: of the shuffles, the random features and the random erasers.
    """

    brings_scores = True
    """For other callbacks: the module has room for the scores of one."""

    test_after_fit = True
    """For the command line: penalties are chosen on ``valid``, results come from ``test``."""

    def __init__(
        self,
        sites: list[str],
        targets: list[str] | None = [],  # noqa: B006  jsonargparse shows it; never changed
        classes: list[str] = [],  # noqa: B006
        alphas: list[float] = [1.0, 1e2, 1e4, 1e6, 1e8],  # noqa: B006
        maps: int = 2,
        random_erasers: int = 19,
        seed: int = 0,
    ) -> None:
        for name, listed in (("sites", sites), ("targets", targets or []), ("classes", classes), ("alphas", alphas)):
            if len(set(listed)) < len(listed) or (not listed and name in ("sites", "alphas")):
                raise PhysteerError(f"Probe.{name} must name one or more different {name}; found {listed}")
        if targets is None and not classes:
            raise PhysteerError("Probe has nothing to look for: Probe.targets is null and Probe.classes is empty")
        if min(maps, random_erasers) < 0:
            raise PhysteerError(f"Probe.maps and random_erasers must be at least 0; found {maps} and {random_erasers}")
        wanted = [] if targets is None else targets or list(TARGETS)
        self.reader, self.classes = ProbeReader([Site.parse(site) for site in sites], wanted, seed), classes
        self.alphas, self.maps, self.random_erasers, self.seed = alphas, maps, random_erasers, seed

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the network, and put the pass over the training windows and the evaluation on the module."""
        module, data = forecast_module(pl_module, "Probe"), data_module(trainer, TransferDataModule, "Probe")
        check_alone(trainer, self)
        forecaster = module.forecaster
        if isinstance(module.evaluation, ProbeEvaluation):
            return  # of the fit before this test
        if stage != "fit":
            raise PhysteerError("Probe fits and tests its probes in one run: physteer fit")
        if trainer.max_epochs != 1:
            raise PhysteerError(
                f"Probe reads the training windows once: trainer.max_epochs 1, not {trainer.max_epochs}"
            )
        if forecaster.jitter_seed is not None:
            raise PhysteerError(
                f"Probe needs model.jitter_seed null, not {forecaster.jitter_seed}: random shifts move fields by "
                "fractions of a token, and the targets would stay"
            )
        module.freeze_network()
        windows = data.windows("train")
        shapes = forecaster.site_shapes(self.reader.sites, windows.metadata, windows.spec.n_input)
        first, tokens = next((site, shape[1:5]) for site, shape in shapes.items())
        for site, shape in shapes.items():
            cells = [axis.tokens for axis in forecaster.token_grid(site, windows.metadata, windows.spec.n_input)]
            if [*shape[2:5]] != cells:
                raise PhysteerError(
                    f"Probe reads activations of {cells} tokens, [B, T, h, w, δ, d]; {site} has the shape {list(shape)}"
                )
            if shape[1:5] != tokens:
                raise PhysteerError(
                    f"Probe compares sites with the same tokens; {site} has {list(shape[1:5])} frames and tokens, "
                    f"{first} {list(tokens)}: probe each grid in a run of its own"
                )
        fit = ProbeFit(self.reader, ProbeWindows(windows, self.seed), self.classes)
        if self.classes:
            for scored in (data.windows("valid"), data.windows("test"), data.full_windows()):
                if scored is not None:
                    fit.classes.check(scored)
        module.objective = fit
        module.evaluation = ProbeEvaluation(fit, self.alphas, self.maps, self.seed)
        module.automatic_optimization = False  # no loss, so nothing for Lightning to step along
        trainer.num_sanity_val_steps = 0  # there is nothing to check before the pass
        if isinstance(trainer.strategy, DDPStrategy):
            # its wrapper shares out gradients, and refuses a model that has none
            trainer.strategy.configure_ddp = _nothing  # type: ignore[method-assign]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write probes and erasers, on the first process."""
        evaluation, run = scores_of(pl_module, ProbeEvaluation, "Probe"), Path(trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        for site in map(str, self.reader.sites):
            for (place, resolution), probes in evaluation.probes.items():
                if place == site:
                    file = run / "probes" / f"{file_name(site)}_{resolution}.safetensors"
                    selected(probes, evaluation.targets(resolution)).save(file)
            for task, probe in evaluation.classes.probes.items():
                if task.place == site and not task.shuffled:
                    probe.save(run / "probes" / f"{file_name(site)}_{file_name(task.parameter)}_classes.safetensors")
        if not self.reader.targets:
            return
        model = forecast_module(pl_module, "Probe").forecaster.identity
        for eraser in erasers(evaluation.fit, evaluation.targets("token"), model, self.random_erasers, self.seed):
            file = run / "erasers" / f"{file_name(eraser.site)}_{file_name(eraser.targets[0])}.safetensors"
            eraser.save(file)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write tables, maps and figures."""
        evaluation, run = scores_of(pl_module, ProbeEvaluation, "Probe"), Path(trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        write_probe_tables(run, evaluation.table(), evaluation.lens.table())
        if classes := evaluation.classes.table():
            write_class_table(run, classes)
        for maps in evaluation.maps:
            maps.save(run / "maps" / f"{maps.data}_{maps.name}.safetensors")
        report_probes(run)
        pl_module.print(f"{probes_text(run)}\nreport: {write_page(run)}", flush=True)


def _nothing(*args: Any) -> None:
    """Do nothing."""

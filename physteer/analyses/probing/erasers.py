"""Erasers of probe targets, and random erasers as their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from physteer.analyses.probing.fitting import ProbeFit
from physteer.concepts import CrossMoments, LeaceEraser, LeaceFitter
from physteer.concepts.linear import principal


def erasers(fit: ProbeFit, targets: Sequence[str], model: str, n_random: int, seed: int) -> Iterator[LeaceEraser]:
    """Yield for every site an eraser of each target, then random erasers (`random_eraser`).

    Args:
        fit: the sums of all processes.
        targets: names of targets that vary.
        model: the weights.
        n_random: number of random erasers per site.
        seed: of the random erasers.
    """
    data = fit.windows.dataset.path
    for number, site in enumerate(map(str, fit.reader.sites)):
        moments = fit.fitters[site, "token"]
        fitter = LeaceFitter(fit.names)
        fitter.load_state_dict(moments.state_dict())
        for target in targets:
            yield fitter.fit([target], site=site, model=model, data=data)
        generator = torch.Generator().manual_seed(seed + number)
        for i in range(n_random):
            yield random_eraser(moments, generator, name=f"random {i:02d}", site=site, model=model, data=data)


def random_eraser(
    moments: CrossMoments, generator: torch.Generator, *, name: str, site: str, model: str, data: str
) -> LeaceEraser:
    """Return an eraser of one random direction, in the form of LEACE's for a scalar target.

    r(x) = x − W⁺ u uᵀ W (x − μ) with u uniform on the sphere and W = Σ_xx^(−½). It removes as many directions as the
    eraser of a scalar target. The direction is random in whitened coordinates, so that the change of activations has
    the size of a random erasure.
    """
    eigenvalues, vectors = principal(moments.scatter_xx.cpu() / moments.count)
    u = torch.randn(len(eigenvalues), 1, generator=generator, dtype=torch.float64)
    u = u / u.norm()
    return LeaceEraser(
        mean=moments.mean_x.cpu(),
        read=vectors @ (eigenvalues.rsqrt()[:, None] * u),
        write=vectors @ (eigenvalues.sqrt()[:, None] * u),
        targets=(name,),
        count=moments.count,
        site=site,
        model=model,
        data=data,
    )

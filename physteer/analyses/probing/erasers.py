"""Erasers of what probes read, and random ones of the same kind to compare them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from physteer.analyses.probing.fitting import ProbeFit
from physteer.concepts import CrossMoments, LeaceEraser, LeaceFitter
from physteer.concepts.linear import principal


def erasers(fit: ProbeFit, targets: Sequence[str], model: str, n_random: int, seed: int) -> Iterator[LeaceEraser]:
    """Yield for every site an eraser of each target, then random ones (`random_eraser`).

    Args:
        fit: whose sums, of all processes.
        targets: that vary.
        model: which weights.
        n_random: random erasers per site.
        seed: of the random ones.
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
    """Return what erases one random direction as LEACE erases a target's: r(x) = x − W⁺ u uᵀ W (x − μ).

    u is uniform on the sphere, W = Σ_xx^(−½): as many directions are lost as with a scalar target, and they are drawn
    as activations vary, so that the change is of the size that erasing something by chance has.
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

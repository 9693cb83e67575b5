"""Extractions whose answer is known: linear maps, and functions that read a planted space."""

import statistics

import torch
from helpers.bases import D, K, PlantedReader, correlated, extracted, white

from physteer.metrics import largest_principal_angle


def test_a_linear_map_of_white_data_gives_its_right_singular_vectors():
    """E‖M v (v·h)‖² = ‖M v‖² where the data are white in the sample."""
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    fit, _ = extracted(white(500, 0, 16), lambda h: h @ matrix.mT, k=0)
    _, singular, vectors = torch.linalg.svd(matrix.double())
    angles = [largest_principal_angle(fit.basis.read[:, [j]], vectors[[j]].mT) for j in range(16)]
    assert max(angles) < 0.05
    torch.testing.assert_close(fit.basis.energies, singular.square(), rtol=1e-5, atol=1e-6)
    assert fit.basis.restarts == (0,) * 16 and max(fit.basis.rises) == 0


def median_angle(data, n, mode, metric, k=K) -> tuple[float, list]:
    angles, fits = [], []
    for seed in range(5):
        reader = PlantedReader(seed)
        fit, _ = extracted(data(n, seed), reader, mode, metric=metric, k=k, batch=n, candidates=4)
        angles.append(largest_principal_angle(fit.basis.span(K), reader.planted))
        fits.append(fit)
    return statistics.median(angles), fits


def test_a_planted_space_is_found_and_nothing_behind_it():
    angle, fits = median_angle(white, 8192, "mean", "raw", k=K + 1)
    assert angle < 2
    for fit in fits:
        torch.testing.assert_close(fit.basis.read.mT @ fit.basis.read, torch.eye(K + 1).double(), atol=1e-5, rtol=0)
        assert fit.basis.energies[K - 1] > 10 * fit.basis.energies[K]
        assert bool((fit.basis.energies.diff() < 0).all())


def test_a_planted_space_is_found_by_resampling():
    assert median_angle(white, 32768, "resample", "raw")[0] < 2


def test_correlated_channels_need_the_whitened_metric():
    """Orthogonal ablation puts in variance that the function does not read otherwise; oblique ablation does not."""
    whitened, fits = median_angle(correlated, 8192, "mean", "whitened", k=K + 1)
    raw, _ = median_angle(correlated, 8192, "mean", "raw")
    assert whitened < 8 and raw > 30
    for fit in fits:
        torch.testing.assert_close(fit.basis.read.mT @ fit.basis.write, torch.eye(K + 1).double(), atol=1e-5, rtol=0)
        assert fit.basis.energies[K - 1] > 10 * fit.basis.energies[K]
        gram = fit.basis.write.mT @ fit.basis.write  # what is removed is oblique
        assert (gram - gram.diagonal().diag()).abs().max() > 1e-3


def test_halves_of_the_data_agree_on_the_span_of_a_planted_space():
    data = torch.cat([white(4096, 0), white(4096, 1)])
    fit, _ = extracted(data, PlantedReader(0), batch=4096, halves=[[0], [1]], k=K)
    angles = fit.basis.half_angles
    assert angles.shape == (K,) and 0 < angles[-1] < 8
    alone, _ = extracted(white(4096, 0), PlantedReader(0), k=K)
    assert largest_principal_angle(alone.basis.span(K), fit.basis.span(K)) < 8
    assert not len(alone.basis.half_angles)


def test_coordinates_of_a_span_give_its_pair_in_the_metric():
    fit, _ = extracted(correlated(1024, 0), PlantedReader(0), metric="whitened", k=1)
    span = torch.randn(D, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    read, write = fit.metric.pair(fit.metric.coordinates(span))
    assert largest_principal_angle(read, span) < 1e-6
    torch.testing.assert_close(read.mT @ write, torch.eye(3).double())

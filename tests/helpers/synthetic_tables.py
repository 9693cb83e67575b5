"""Tables of metrics with known effects."""

import numpy as np
import pandas as pd

from physteer.analyses.steering.table import MetricRow, metrics_table

FIELDS = ("tracer", "pressure", "velocity_x", "velocity_y")


N_STEPS = 6


def synthetic(
    sites=("blocks.0",),
    modes=("drop",),
    strengths=(-0.4, -0.2, 0.2, 0.4),
    n_random=19,
    n_initial=5,
    n_windows=2,
    cosine=0.6,
    moving=FIELDS,
    n_steps=N_STEPS,
    seed=0,
):
    """Rows of a run in which the concept aligns with `cosine`, more so at the first site, and random directions not."""
    rng = np.random.default_rng(seed)
    conditions = [("truth", "truth", "", 0.0, "", ""), ("unsteered", "unsteered", "", 0.0, "", "")]
    conditions += [(f"truth at {name}", "truth", "", sign, "", "") for name, sign in (("above", 1.0), ("below", -1.0))]
    for site in sites:
        for mode in modes:
            for a in strengths:
                conditions.append((f"vortex {mode} {a:+g} {site}", "concept", "vortex", a, mode, site))
            for a in strengths:
                for i in range(n_random):
                    conditions.append((f"random {i} {mode} {a:+g} {site}", "random", f"random {i}", a, mode, site))
                conditions.append((f"shuffled {mode} {a:+g} {site}", "shuffled", "shuffled 1", a, mode, site))
    conditions += [(f"data {a:+g}", "data", "data interpolation", a, "", "") for a in (-1.0, 1.0)]
    conditions += [(f"blurred {a:+g}", "blurred", "blurred output", a, "", "") for a in (-1.0, 1.0)]
    offsets = {(role, d, site, mode): rng.normal(size=8) for _, role, d, _, mode, site in conditions}
    rows = []
    for ic in range(n_initial):
        for w in range(n_windows):
            for name, role, direction, a, mode, site in conditions:
                z = offsets[role, direction, site, mode]
                quality = cosine * (1 - 0.3 * sites.index(site)) * (0.8 if mode == "pad" else 1) if site else 0
                for step in range(1, n_steps + 1):
                    place = (f"w{ic}_{w}", f"ic{ic}", name, role, direction, a, mode, site, step, 0.25 * step)

                    def add(field, metric, value, place=place):
                        rows.append(MetricRow(*place, field, metric, float(value)))

                    noise = np.zeros(12) if role == "blurred" else 0.03 * rng.normal(size=12)
                    effect = {"truth": 0.6 * a, "concept": 0.5 * a, "data": 0.4 * a, "unsteered": 0.0}.get(
                        role, 0.25 * a * z[6]
                    )
                    base = 5.0 + ic + 0.1 * step
                    add("", "enstrophy", base * (1 + effect * step / n_steps + noise[0] * a))
                    add("", "vortex_area", 0.3 + 0.1 * effect + 0.1 * noise[1] * a)
                    add("", "tracer_mass", 0.1 + (role != "truth") * 0.001 * step * (1 + abs(a)))
                    add("", "tracer_variance", 0.25)
                    if role != "truth":
                        add("", "divergence_rms", 0.01 * (1 + abs(a)))
                        add("", "spectrum_distance", 0.1 * step * (1 + abs(a)))
                        add("blocks.0", "natural_percentile", 50 + 100 * min(abs(a), 0.49))
                        add("blocks.0", "residual_percentile", 51 + w)
                    for i, field in enumerate(FIELDS):
                        change = (0.2 if field in moving else 1e-5) * step / n_steps
                        if role == "truth":
                            if a:
                                add(field, "vrmse", change)
                            continue
                        add(field, "vrmse", 0.1 * step / n_steps * (1 + abs(a)))
                        if role == "unsteered":
                            continue
                        seen = {"concept": quality, "data": 0.9, "blurred": 0.8}.get(role, 0.3 * np.tanh(z[i]))
                        seen = np.clip(seen + noise[4 + i], -1, 1)
                        size = 2 * abs(a) * (change if field in moving else 0.01)
                        add(field, "alignment_cosine", seen)
                        add(field, "alignment_gain", seen * size / change)
                        unsteered = change**2 + (0.02 * step) ** 2
                        truth, made = (change**2 if field in moving else 0.0), seen * size * change
                        add(field, "change_product", made if truth else 0.0)
                        add(field, "change_error", size**2 - (2 * made if truth else 0.0) + truth)
                        add(field, "change_truth", truth)
                        add(field, "error_unsteered", unsteered)
                        add(field, "error_steered", unsteered - 2 * seen * size * change + size**2)
    return metrics_table(rows)


def erased(moved=0.5, n_initial=5):
    """Rows of a run in which erasing moves the fields by `moved`, and random erasers move them by 0.1."""
    table = synthetic(modes=("erased",), strengths=(1.0,), n_initial=n_initial)
    table = table[table["role"].isin(["truth", "unsteered", "concept", "random"])]
    movement = table[table["metric"] == "alignment_cosine"].assign(metric="movement")
    value = np.where(movement["role"] == "concept", moved, 0.1)
    return pd.concat([table, movement.assign(value=value)], ignore_index=True)

"""Probes on a frozen network: where a quantity can be read, learned on simple flows and tested on full simulations.

`ProbeReader` reads activations and computes targets. `ProbeFit` collects the sums over training windows.
`ProbeEvaluation` chooses penalties on validation windows, and scores on test windows. The `Probe` callback installs
them on a `ForecastModule`.
"""

from physteer.analyses.probing.evaluation import ProbeEvaluation
from physteer.analyses.probing.fitting import ProbeFit
from physteer.analyses.probing.readings import ProbeReader
from physteer.analyses.probing.windows import ProbeWindows

__all__ = ["ProbeEvaluation", "ProbeFit", "ProbeReader", "ProbeWindows"]

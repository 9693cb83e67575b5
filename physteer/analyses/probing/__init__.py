"""Probes on a frozen network: where a quantity can be read, learned on simple flows and tested on full simulations.

`ProbeReader` says what is read and looked for, `ProbeFit` is the pass over the training windows, `ProbeEvaluation`
chooses penalties on validation windows and scores on test windows. The `Probe` callback puts them on a
`ForecastModule`.
"""

from physteer.analyses.probing.evaluation import ProbeEvaluation
from physteer.analyses.probing.fitting import ProbeFit
from physteer.analyses.probing.readings import ProbeReader
from physteer.analyses.probing.windows import ProbeWindows

__all__ = ["ProbeEvaluation", "ProbeFit", "ProbeReader", "ProbeWindows"]

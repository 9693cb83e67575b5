"""Lightning callbacks: thin parts that connect a trainer to the packages of physteer."""

from physteer.callbacks.activation_store import ActivationStore
from physteer.callbacks.base import RolloutCallback
from physteer.callbacks.capture import Capture
from physteer.callbacks.causal_basis import CausalBasis
from physteer.callbacks.circuit import Circuit
from physteer.callbacks.controls import Controls
from physteer.callbacks.das import DAS
from physteer.callbacks.data_interpolation import DataInterpolation
from physteer.callbacks.diagnostics import Diagnostics
from physteer.callbacks.effects import Effects
from physteer.callbacks.erase import Erase
from physteer.callbacks.export_weights import ExportWeights
from physteer.callbacks.figures import Figures
from physteer.callbacks.interrupts import Interrupts
from physteer.callbacks.journal import Journal
from physteer.callbacks.lora import LoRA
from physteer.callbacks.natural_spaces import NaturalSpaces
from physteer.callbacks.probe import Probe
from physteer.callbacks.progress import RolloutProgress
from physteer.callbacks.rollout_video import RolloutVideo
from physteer.callbacks.rollout_writer import RolloutWriter
from physteer.callbacks.run_record import RunRecord
from physteer.callbacks.score_table import ScoreTable
from physteer.callbacks.steer import Steer
from physteer.callbacks.wandb_report import WandbReport

__all__ = [
    "DAS",
    "ActivationStore",
    "Capture",
    "CausalBasis",
    "Circuit",
    "Controls",
    "DataInterpolation",
    "Diagnostics",
    "Effects",
    "Erase",
    "ExportWeights",
    "Figures",
    "Interrupts",
    "Journal",
    "LoRA",
    "NaturalSpaces",
    "Probe",
    "RolloutCallback",
    "RolloutProgress",
    "RolloutVideo",
    "RolloutWriter",
    "RunRecord",
    "ScoreTable",
    "Steer",
    "WandbReport",
]

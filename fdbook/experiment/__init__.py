"""One run, one specification: `RunSpec` says what is trained, on what and how; `train` runs it, `open_run` opens it again.

A matrix of runs is a `Sweep`: `read_sweep` reads it from a file, `run_sweep` runs what is left of it.
"""

from fdbook.experiment.auditing import Audit, audit, audit_table, neighbor_kl
from fdbook.experiment.engines import Engine, Processes
from fdbook.experiment.evaluation import environments
from fdbook.experiment.gains import ladder_table
from fdbook.experiment.ladder import Ladder, LadderSpec, gain_ratio, play_difference, run_ladder
from fdbook.experiment.prediction import Prediction, predict, prediction_lines
from fdbook.experiment.presets import PRESETS, Preset
from fdbook.experiment.run import Run, open_run, summary, train
from fdbook.experiment.spec import DataSpec, RunSpec, differences
from fdbook.experiment.sweep import Cell, Sweep, read_sweep
from fdbook.experiment.sweeping import copy_records, run_sweep, states


__all__ = [
    "PRESETS",
    "Audit",
    "Cell",
    "DataSpec",
    "Engine",
    "Ladder",
    "LadderSpec",
    "Prediction",
    "Preset",
    "Processes",
    "Run",
    "RunSpec",
    "Sweep",
    "audit",
    "audit_table",
    "copy_records",
    "differences",
    "environments",
    "gain_ratio",
    "ladder_table",
    "neighbor_kl",
    "open_run",
    "play_difference",
    "predict",
    "prediction_lines",
    "read_sweep",
    "run_ladder",
    "run_sweep",
    "states",
    "summary",
    "train",
]

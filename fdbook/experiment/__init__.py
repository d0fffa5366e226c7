"""One run, one specification: `RunSpec` says what is trained, on what and how; `train` runs it, `open_run` opens it again."""

from fdbook.experiment.evaluation import environments
from fdbook.experiment.ladder import Ladder, LadderSpec, climb, gain_ratio, ladder_table
from fdbook.experiment.presets import PRESETS, Preset
from fdbook.experiment.run import Run, open_run, summary, train
from fdbook.experiment.spec import DataSpec, RunSpec, differences


__all__ = [
    "PRESETS",
    "DataSpec",
    "Ladder",
    "LadderSpec",
    "Preset",
    "Run",
    "RunSpec",
    "climb",
    "differences",
    "environments",
    "gain_ratio",
    "ladder_table",
    "open_run",
    "summary",
    "train",
]

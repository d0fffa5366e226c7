"""One run, one specification: `RunSpec` says what is trained, on what and how; `train` runs it, `open_run` opens it again."""

from fdbook.experiment.evaluation import environments
from fdbook.experiment.presets import PRESETS, Preset
from fdbook.experiment.run import Run, open_run, summary, train
from fdbook.experiment.spec import DataSpec, RunSpec


__all__ = ["PRESETS", "DataSpec", "Preset", "Run", "RunSpec", "environments", "open_run", "summary", "train"]

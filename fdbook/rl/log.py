"""What a training writes down as it goes: means of its scalars between logged updates, and whether they are sound."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fdbook.rl.records import Record


__all__ = ["Log", "breakage"]


def breakage(metrics: dict[str, np.ndarray], first: int, bound: float) -> tuple[int, str] | None:
    """The first step at which a scalar is not finite or a value of the critic is beyond the bound, and what it was.

    `metrics` are rows of shape (updates, seeds), the first of them that of step `first`.
    """
    worst = None
    for name, rows in metrics.items():
        bad = ~np.isfinite(rows)
        kind = "became NaN or infinite"
        if name == "q_largest" and not bad.any():
            bad, kind = rows > bound, f"grew beyond {bound:.3g}, which the data's rewards cannot add up to"
        if bad.any():
            row, seed = np.argwhere(bad)[0]
            if worst is None or row < worst[0]:
                worst = (int(row), f"{name} {kind} (seed number {seed})")
    return None if worst is None else (first + worst[0], worst[1])


class Log:
    """Means of the scalars between logged updates, in the record and, with a folder, for TensorBoard."""

    def __init__(self, record: Record, folder: Path | None, every: int):
        from tensorboardX import SummaryWriter

        self.record, self.every, self.sums, self.count = record, every, {}, 0
        self.writer = SummaryWriter(str(folder / "tensorboard"), write_to_disk=True) if folder else None

    def add(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Takes the rows (updates, seeds) up to a step; writes their means where one is due, and at the end of a phase."""
        rows = len(next(iter(metrics.values())))
        self.sums = {
            name: self.sums.get(name, 0.0) + values.sum(axis=0, dtype=float) for name, values in metrics.items()
        }
        self.count += rows
        if step % self.every == 0 or step in (self.record.offline, self.record.updates):
            progress = self.record.progress
            for name, total in self.sums.items():
                mean = [float(f"{value:.6g}") for value in total / self.count]
                before = [[0.0] * len(mean)] * len(progress.logged)  # of what only the online phase has
                progress.curves.setdefault(name, before).append(mean)
                self.scalars(f"train/{name}", mean, step)
            progress.logged.append(step)
            self.sums, self.count = {}, 0

    def scalars(self, name: str, values: Sequence[float | int | None], step: int) -> None:
        """Shows a value of each seed in TensorBoard, but for None."""
        if self.writer is not None:
            shown = zip(self.record.seeds, values, strict=True)
            for seed, value in ((seed, value) for seed, value in shown if value is not None):
                self.writer.add_scalar(f"{name}/seed_{seed}", value, step)

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()

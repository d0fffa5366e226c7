"""What a task of one's own can be told (`fdbook.data.custom` makes it)."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fdbook.checks import check_fields, check_kinds, check_range, unknown
from fdbook.data import files


__all__ = ["Options"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a task of one's own can be told. Where the papers choose by task, the defaults are what they choose most often.

    Raises ValueError for values of another kind or out of range.
    """

    name: str | None = None
    """Its name; None: the file's, Minari's id, or for arrays their digest."""
    description: str = ""
    discount: float = 0.99
    q_agg: str = "mean"
    """How the target of E16 joins the critics: "mean" or "min"."""
    fql_alpha: float = 10.0
    """FQL's alpha (E17), which must fit the size of rewards: the papers' lie between 3 and 30000."""
    budget: float = 0.01
    """The budget on E |delta|^2 / d of E18 to E22."""
    updates: int = 1_000_000
    evaluations: Sequence[int] | None = None
    """The updates after which it is evaluated; None: after 80, 90 and 100% of `updates`."""
    horizon: int | None = None
    """Steps of an evaluation episode; None: the environment's own limit, else the longest episode of the data."""
    score: str | None = None
    """"success" (what the environment's info says), "normalized return" or "return"; None: the return, normalized with
    `references`."""
    references: Sequence[float] | None = None
    """The returns that count as 0 and 100: two finite ones, not the same."""
    reward_shift: float = 0.0
    """What is added to each reward."""
    keys: Sequence[str] | None = None
    """The entries of Dict observations that agents see; None: all."""
    action_bounds: Sequence[Any] | None = None
    """The lowest and highest value of actions, numbers or one for each action, of data without an environment; None: -1 and 1, or
    what a Minari data set says."""

    def __post_init__(self):
        where = "A task of one's own"
        check_kinds(self, where)
        for field in ("evaluations", "references", "keys", "action_bounds"):
            if (value := getattr(self, field)) is not None:
                object.__setattr__(self, field, _several(value, field, where))
        check_range(self.discount, "a discount", where, high=1.0, open_high=True)
        for field in ("fql_alpha", "budget"):
            check_range(getattr(self, field), field, where, open_low=True)
        files.check_whole(self.updates, "number of updates", where, 1)
        files.check_whole(1 if self.horizon is None else self.horizon, "horizon", where, 1)
        for step in self.evaluations or ():
            files.check_whole(step, "number of an update to evaluate after", where, 0)
        for field, known in (("q_agg", ("mean", "min")), ("score", ("success", "normalized return", "return"))):
            if (value := getattr(self, field)) is not None and value not in known:
                raise ValueError(unknown(field, value, known))
        if self.references is not None and not (_are_two(self.references, (0,)) and np.ptp(self.references) > 0):
            raise ValueError(
                f"{where} takes references that are two finite returns, not the same; got {self.references}."
            )
        if self.action_bounds is not None and not _are_two(self.action_bounds, (0, 1)):
            expected = "action_bounds that are two, the lowest and the highest, of finite numbers"
            raise ValueError(f"{where} takes {expected}; got {self.action_bounds}.")
        if self.score == "normalized return" and self.references is None:
            raise ValueError(
                f"{where} takes references, two returns, where its score is a normalized return; got none."
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Options":
        """The options by name. Raises ValueError, with the nearest name, for an unknown one, and for values out of range."""
        check_fields(cls, options, "option of a task of one's own")
        return cls(**options)

    def told(self) -> dict[str, Any]:
        """What is not as by default, as JSON takes it, without the name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "name"}
        changed = {name: value for name, value in values.items() if value != getattr(Options, name)}
        plain = {
            name: [np.asarray(v).tolist() for v in value] for name, value in changed.items() if isinstance(value, tuple)
        }
        return changed | plain


def _several(value, field, where) -> tuple:
    """What was given for a field of several values."""
    with contextlib.suppress(TypeError):
        if not isinstance(value, str):
            return tuple(value)
    raise ValueError(f"{where} takes several values for {field}, as in a tuple; got {value!r}.")


def _are_two(values, dims) -> bool:
    """Whether these are two finite numbers, or two arrays of them with so many axes."""
    with contextlib.suppress(ValueError):  # of lists within lists that are no array
        parts = [np.asarray(value) for value in values]
        numbers = all(part.ndim in dims and part.dtype.kind in "iuf" and np.all(np.isfinite(part)) for part in parts)
        return len(parts) == 2 and numbers
    return False

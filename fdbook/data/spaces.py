"""Any Gymnasium environment as agents take one: observations as vectors or pictures, actions in [-1, 1], episodes that end.

Dict and Tuple observations are flattened: their entries, those of a Dict in the order of their names, each as one row of numbers,
joined. Actions must lie in a bounded box; other bounds than -1 and 1 are rescaled, here and in the data alike (`to_unit`).
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fdbook.data import simulators
from fdbook.rl.arrays import ROUNDING, outside


if TYPE_CHECKING:
    import gymnasium


__all__ = [
    "Bounds",
    "Maker",
    "action_bounds",
    "fit",
    "flat",
    "import_path",
    "is_unit",
    "make",
    "observation_shape",
    "rounded_out",
    "to_unit",
]

Maker = str | Callable[..., Any]
"""What makes an environment: a Gymnasium id, "module:function", or the function, called with render_mode if it takes one."""
Bounds = tuple[np.ndarray, np.ndarray]
"""The lowest and the highest value of each action."""


def make(environment: Maker, render_mode: str | None = None) -> "gymnasium.Env":
    """A new environment. Raises ValueError, naming it, when there is none of that id, and for what makes none."""
    expected = "a Gymnasium id, module:function, or a function that makes one"
    if not isinstance(environment, str) and not callable(environment):
        raise ValueError(f"An environment is said as {expected}; got a {type(environment).__name__}.")
    options = {} if render_mode is None else {"render_mode": render_mode}
    if isinstance(environment, str):
        environment = _resolve(environment)
    if isinstance(environment, str):
        return simulators.tidy(_registered(environment, options))
    parameters = inspect.signature(environment).parameters.values()
    takes = any(item.name == "render_mode" or item.kind is item.VAR_KEYWORD for item in parameters)
    made = environment(**options if takes else {})
    if not hasattr(made, "observation_space") or not hasattr(made, "action_space"):
        raise ValueError(f"An environment is said as {expected}; the function made a {type(made).__name__}.")
    return simulators.tidy(made)


def _resolve(text):
    """The function that "module:function" names; a Gymnasium id as it is."""
    module, _, name = text.partition(":")
    try:
        result = functools.reduce(getattr, name.split("."), importlib.import_module(module)) if name else text
    except (ImportError, AttributeError):
        return text
    return result if callable(result) else text


def _registered(name, options):
    """The environment of a Gymnasium id, those of ogbench and gymnasium-robotics among them."""
    import gymnasium

    from fdbook.data.minari import robotics

    with simulators.making(name), simulators.simulating():
        try:
            return gymnasium.make(name, **options)
        except gymnasium.error.UnregisteredEnv:
            simulators.import_ogbench()
        try:
            with robotics():
                return gymnasium.make(name, **options)
        except (gymnasium.error.UnregisteredEnv, ImportError) as error:
            raise ValueError(f"Gymnasium knows no environment called {name!r}, nor is it a module:function.") from error


def function(text: str) -> Callable:
    """The function that "module:function" names. Raises ValueError when there is none."""
    result = _resolve(text)
    if isinstance(result, str):
        raise ValueError(f"There is no function {text!r} (expected module:function).")
    return result


def import_path(function: Callable) -> str | None:
    """The "module:function" under which others can import it; None where they cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    text = f"{module}:{name}"
    return text if module not in (None, "__main__") and _resolve(text) is function else None


def observation_shape(space: Any, keys: Sequence[str] | None, where: str) -> tuple[int, ...]:
    """The shape of an observation as agents see it: (width,), or (height, width, channels) for pictures of bytes.

    `keys` chooses entries of a Dict. Raises ValueError for spaces of anything but numbers, and pictures among other things.
    """
    from gymnasium import spaces

    if keys is not None:
        has = sorted(space.spaces) if isinstance(space, spaces.Dict) else []
        if not keys or set(keys) - set(has):
            raise ValueError(
                f"{where} has observations {', '.join(has) or 'without keys'}; got keys {', '.join(keys)}."
            )
        space = spaces.Dict({key: space[key] for key in keys}) if len(keys) > 1 else space[keys[0]]
    if _is_picture(space):
        return space.shape
    return (sum(_width(leaf, where) for leaf in _leaves(space)),)


def _is_picture(space):
    return getattr(space, "dtype", None) == np.uint8 and len(getattr(space, "shape", None) or ()) == 3


def _leaves(space):
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = [space[key] for key in sorted(space.spaces)] if isinstance(space, spaces.Dict) else space.spaces
        return [leaf for part in parts for leaf in _leaves(part)]
    return [space]


def _width(leaf, where):
    from gymnasium import spaces

    if not isinstance(leaf, spaces.Box | spaces.MultiBinary) or _is_picture(leaf):
        raise ValueError(f"{where} has observations in {leaf} (expected numbers in boxes, or one picture alone).")
    return int(np.prod(leaf.shape))


def flat(observation: Any, keys: Sequence[str] | None = None, *, rows: int | None = None) -> np.ndarray:
    """One observation, or `rows` of them along the first axis of each entry, as (width,) or (rows, width); pictures stay."""
    if keys is not None:
        chosen = {key: observation[key] for key in keys}
        observation = chosen if len(keys) > 1 else chosen[keys[0]]
    if isinstance(observation, Mapping):
        return np.concatenate([flat(observation[key], rows=rows) for key in sorted(observation)], axis=-1)
    if isinstance(observation, tuple | list):
        return np.concatenate([flat(part, rows=rows) for part in observation], axis=-1)
    values = np.asarray(observation)
    if values.dtype == np.uint8 and values.ndim == (3 if rows is None else 4):
        return values
    return values.reshape(-1) if rows is None else values.reshape(rows, -1)


def action_bounds(space: Any, where: str) -> Bounds:
    """The bounds (d,) of an action space. Raises ValueError, in one sentence, for one that is no bounded box of d numbers."""
    from gymnasium import spaces

    expected = "(expected a bounded Box of d real numbers: policies here are continuous)"
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise ValueError(f"{where} has actions in {space} {expected}.")
    if not (np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high)) and np.all(space.low < space.high)):
        raise ValueError(
            f"{where} has actions in {space} {expected}; wrap it in gymnasium.wrappers.RescaleAction or ClipAction."
        )
    return space.low.astype(float), space.high.astype(float)


def is_unit(bounds: Bounds) -> bool:
    """Whether the bounds are -1 and 1."""
    return bool(np.all(bounds[0] == -1) and np.all(bounds[1] == 1))


def _scaled(actions, bounds):
    """Actions (n, d) between the bounds, taken to [-1, 1], in double precision; those that lie outside stay so."""
    low, high = bounds
    return 2 * (np.asarray(actions, float) - low) / (high - low) - 1


def rounded_out(actions: np.ndarray, bounds: Bounds) -> int:
    """The number of rows of actions (n, d) with one that lies outside its bounds: those that are clipped on loading."""
    return outside(actions if is_unit(bounds) else _scaled(actions, bounds))


def to_unit(actions: np.ndarray, bounds: Bounds, where: str) -> np.ndarray:
    """Actions (n, d) between the bounds, taken to [-1, 1]. Raises ValueError for one that lies outside by more than rounding."""
    if is_unit(bounds):
        return actions
    (low, high), unit = bounds, _scaled(actions, bounds)
    bad = np.abs(unit) > 1 + ROUNDING
    if bad.any():
        row, column = np.argwhere(bad)[0]
        count, value = np.sum(bad.any(axis=1)), np.asarray(actions)[row, column]
        between = f"[{low[column]:g}, {high[column]:g}]"
        raise ValueError(
            f"{where} has actions outside their bounds in {count} of {len(unit)} rows, first in row {row}: "
            f"action {column} is {value!s}, not in {between}."
        )
    return np.clip(unit, -1, 1).astype(np.float32)


def fit(environment: "gymnasium.Env", keys: Sequence[str] | None, horizon: int, where: str) -> "gymnasium.Env":
    """The environment with flat observations in float32 (pictures in bytes), actions in [-1, 1], and a limit of steps.

    Raises ValueError for observations and actions that cannot be had so.
    """
    import gymnasium

    shape = observation_shape(environment.observation_space, keys, where)
    bounds = action_bounds(environment.action_space, where)
    limit = environment.spec.max_episode_steps if environment.spec is not None else None
    with simulators.simulating():
        if limit is None or limit > horizon:
            environment = gymnasium.wrappers.TimeLimit(environment, horizon)
        if not is_unit(bounds):
            number = cast("gymnasium.spaces.Box", environment.action_space).dtype.type  # `action_bounds` takes no other
            environment = gymnasium.wrappers.RescaleAction(environment, number(-1), number(1))
        kept = np.uint8 if len(shape) == 3 else np.float32
        low, high = (0, 255) if kept is np.uint8 else (-np.inf, np.inf)
        space = gymnasium.spaces.Box(low, high, shape, kept)
        return gymnasium.wrappers.TransformObservation(environment, lambda seen: flat(seen, keys).astype(kept), space)

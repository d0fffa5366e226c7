"""Tasks of one's own: from an npz file, arrays in memory or a Minari data set, with an environment or without one.

Each function here makes a plain `fdbook.data.tasks.Task`, which is loaded, trained on and evaluated like the registry's own. An
environment is a Gymnasium id, a function that makes one, or "module:function"; its actions must lie in a bounded box, and other
bounds than -1 and 1 are rescaled, in the data and back for the environment. Observations are vectors or pictures of bytes; Dict
and Tuple observations are flattened (`fdbook.data.spaces`). What else a task can be told is in `Options`.
"""

import dataclasses
import functools
import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdbook.data import custom_sources, files, spaces
from fdbook.data.custom_sources import FLAGS, Arrays, MinariSet, Own
from fdbook.data.options import Options
from fdbook.data.tasks import DataSet, Task


__all__ = ["Options", "from_arrays", "from_minari", "from_npz", "from_source", "rebuild"]

RECOVER = "recover"
"""The environment of a Minari data set that it describes itself."""
NONE = "none"
"""No environment: logs alone."""
LOOKED_AT = ("observations", "actions", *FLAGS, "next_observations")
NUMBERS = (*LOOKED_AT, "rewards", "masks")
UNIT = (-1.0, 1.0)


class _Facts(NamedTuple):
    """What data look like: the shape of one observation, the number of actions and their bounds, rows of the longest episode."""

    observation: tuple[int, ...]
    action: int
    steps: int
    low: np.ndarray
    high: np.ndarray


def from_npz(
    path: str | Path,
    environment: spaces.Maker | None = None,
    *,
    validation: str | Path | None = None,
    rewards: Callable | str | None = None,
    **options: Any,
) -> Task:
    """A task from an npz file of `observations`, `actions`, `rewards` and flags that end episodes.

    With `next_observations`, every row is a transition. Without, the last row of each episode only holds its last observation and
    what was done there, as in OGBench's files, unless it is known to be a step that terminated the episode, as in D4RL's files:
    by `terminations`, or by `terminals` beside `timeouts` or `truncations`. Such a step is kept with its reward and mask 0; what
    was cut off still ends with a row that is no transition. `masks` and those four flags are read as
    `fdbook.data.custom_sources.masks_and_ends` says. `rewards` is a function of the dict of arrays (or its "module:function")
    that gives the rewards (n,), or rewards and masks; without it and without that array, OGBench's single-task environments label
    the rows. `validation` is another file (None: the one of the same name with -val, if it is there).

    Raises FileNotFoundError when there is no such file; ValueError for what does not fit: an array that is missing or of another
    shape than the environment's, actions that are discrete or unbounded, options out of range.
    """
    chosen, path = Options.of(options), Path(path).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    beside = path.with_name(f"{path.stem}-val.npz") if validation is None else Path(validation).expanduser().absolute()
    if validation is not None and not beside.exists():
        raise FileNotFoundError(f"There is no file {beside}.")
    paths = {"train": path} | ({"validation": beside} if beside.exists() else {})

    def read(split):
        return files.arrays_of(paths[split], numbers=NUMBERS) if split in paths else None

    about = {"kind": "npz", "path": str(path), "validation": None if validation is None else str(beside)}
    each = [_facts(files.arrays_of(part, LOOKED_AT), str(part), environment) for part in paths.values()]
    facts = _check_alike(each, [str(part) for part in paths.values()])
    rest = {"read": read, "rewards": rewards, "files": tuple(paths.values()), "where": str(path)}
    return _of_arrays(path.stem, facts, environment, chosen, about, rest)


def from_arrays(
    arrays: Mapping[str, Any],
    environment: spaces.Maker | None = None,
    *,
    validation: Mapping[str, Any] | None = None,
    rewards: Callable | str | None = None,
    **options: Any,
) -> Task:
    """A task from arrays by name, as `from_npz` reads them from a file. No file holds them: such a task must be passed again."""
    chosen = Options.of(options)
    for given in (arrays, validation or {}):
        if not isinstance(given, Mapping):
            raise ValueError(f"from_arrays takes arrays by name, as in a dict; got a {type(given).__name__}.")
    splits = {"train": arrays, "validation": validation}
    splits = {name: {key: np.asarray(item[key]) for key in item} for name, item in splits.items() if item is not None}
    digest = _digest(splits)
    names = ["The dict of arrays", "validation"][: len(splits)]
    each = [_facts(part, name, environment) for name, part in zip(names, splits.values(), strict=True)]
    facts = _check_alike(each, names)
    about = {"kind": "arrays", "fingerprint": digest, "lost": f"arrays in memory (fingerprint {digest})"}
    rest = {"read": splits.get, "rewards": rewards, "files": (), "where": "The dict of arrays"}
    return _of_arrays(f"arrays-{digest}", facts, environment, chosen, about, rest)


def from_minari(id: str, environment: spaces.Maker | None = RECOVER, **options: Any) -> Task:
    """A task from a Minari data set of any id, which is downloaded if it is not here.

    The environment is the one that the data set describes for evaluation ("recover"), another one, or None for logs alone, which
    is what is left, with a warning, of a set that describes none. Masks
    are 0 where an episode terminated. Numbers are rounded to float32. Raises FileNotFoundError when the data set can be had
    neither here nor by download; ValueError for what does not fit, as `from_npz` does.
    """
    chosen = Options.of(options)
    where = f"The Minari data set {id}"
    data, lengths = custom_sources.from_set(id, _with_lengths)
    described = {"env_spec", "eval_env_spec"} & {name for name, spec in data.storage.metadata.items() if spec}
    if environment == RECOVER and not described:
        warnings.warn(f"{where} describes no environment: nothing will be played.", stacklevel=2)
        environment = None
    shape = spaces.observation_shape(data.observation_space, chosen.keys, where)
    limits = getattr(data.action_space, "low", np.nan), getattr(data.action_space, "high", np.nan)
    known = environment is not None or chosen.action_bounds is not None
    low, high = spaces.action_bounds(data.action_space, where) if not known else limits
    facts = _Facts(shape, int(np.prod(data.action_space.shape)), int(max(lengths, default=0)), low, high)
    source = functools.partial(MinariSet, id=id, recovered=environment == RECOVER)
    return _task(id, facts, environment, chosen, {"kind": "minari", "id": id}, source, data_bounds=not known)


def _with_lengths(data):
    """Minari's object, and the number of steps of each episode."""
    return data, [episode["total_steps"] for episode in data.storage.get_episode_metadata(data.episode_indices)]


def from_source(text: str, environment: spaces.Maker | None = None, **options: Any) -> Task:
    """`from_npz` for the path of a file, `from_minari` for an id, whose own environment is taken unless another is given, or
    "none".

    Raises ValueError for a text that is neither, and what the two raise.
    """
    alone = environment == NONE
    if text.endswith(".npz") or Path(text).expanduser().is_file():
        return from_npz(text, None if alone else environment, **options)
    if re.fullmatch(r"([-\w]+/)*[-\w]+-v\d+", text):
        return from_minari(text, None if alone else RECOVER if environment is None else environment, **options)
    raise ValueError(f"Data are an npz file or a Minari id such as D4RL/pen/human-v2; got {text!r}.")


def rebuild(tree: Mapping[str, Any]) -> Task:
    """The task that `Task.to_dict` described, from the file or the data set it came from.

    Raises ValueError where it was made from what no file holds, and what the makers raise.
    """
    if tree.get("lost"):
        raise ValueError(
            f"The task {tree['name']} was made from {tree['lost']}, which no file holds: make it again and "
            "pass it, as in open_run(folder, task=task)."
        )
    options, environment = {"name": tree["name"], **tree["options"]}, tree["environment"]
    if tree["kind"] == "minari":
        return from_minari(tree["id"], environment, **options)
    return from_npz(tree["path"], environment, validation=tree["validation"], rewards=tree["rewards"], **options)


def _facts(arrays, where, environment) -> _Facts:
    """What arrays by name look like."""
    for key in ("observations", "actions"):
        if key not in arrays:
            raise ValueError(f"{where} has no array {key!r} (expected observations, actions, rewards and terminals).")
    actions, observations = arrays["actions"], arrays["observations"]
    if actions.ndim != 2 or not actions.size or actions.dtype.kind not in "iuf":
        got = f"{actions.dtype} of shape {actions.shape}"
        raise ValueError(
            f"{where} has actions that are {got} (expected real numbers (n, d), one row of d numbers for each step: policies "
            "here are continuous)."
        )
    if environment is None and actions.dtype.kind != "f":
        raise ValueError(
            f"{where} has actions that are {actions.dtype}, and no environment that says what they are (expected floating "
            "point numbers: policies here are continuous; cast them if these are)."
        )
    if observations.dtype.kind not in "biuf" or observations.ndim < 2 or not np.prod(observations.shape[1:]):
        got = f"{observations.dtype} of shape {observations.shape}"
        raise ValueError(f"{where} has observations that are {got} (expected numbers, one row for each step).")
    if len(observations) != len(actions):
        raise ValueError(f"{where} has {len(observations)} observations (expected {len(actions)}, as many as actions).")
    flags = {key: arrays[key] for key in (*FLAGS, "next_observations") if key in arrays}
    _, ends = custom_sources.masks_and_ends(flags, len(actions), where)
    last = np.concatenate([[-1], np.flatnonzero(ends), [len(ends) - 1]])
    shape = spaces.flat(observations[:1], rows=1).shape[1:]
    return _Facts(shape, actions.shape[1], int(np.max(np.diff(last))), actions.min(axis=0), actions.max(axis=0))


def _digest(splits) -> str:
    result = hashlib.sha256()
    for name, arrays in splits.items():
        for key, values in sorted(arrays.items()):
            result.update(f"{name} {key} {values.dtype} {values.shape}".encode())
            result.update(np.ascontiguousarray(values).tobytes())
    return result.hexdigest()[:16]


def _check_alike(each, names) -> _Facts:
    """What the first of several parts looks like. Raises ValueError where observations or actions of another one do not."""
    facts = each[0]
    for other, name in zip(each, names, strict=True):
        for what in ("observation", "action"):
            have, wanted = getattr(other, what), getattr(facts, what)
            if have != wanted:
                raise ValueError(f"{name} has {what}s of size {have}; those of {names[0]} are of size {wanted}.")
    return facts


def _of_arrays(name, facts, environment, options, about, rest):
    """A task whose source is `Arrays`."""
    rewards = rest["rewards"]
    text = rewards if isinstance(rewards, str) or rewards is None else spaces.import_path(rewards)
    about = about | {"rewards": text}
    if rewards is not None and text is None:
        about = {"lost": "a function of rewards that cannot be imported"} | about
    if isinstance(rewards, str):
        rest = rest | {"rewards": spaces.function(rewards)}
    return _task(name, facts, environment, options, about, functools.partial(Arrays, **rest))


def _task(name, facts, environment, options, about, make_source, data_bounds=False) -> Task:
    """The task, after a look at its environment."""
    name, label = options.name or name, _label(environment)
    if environment is not None and options.action_bounds is not None:
        raise ValueError("action_bounds are for logs alone; an environment has bounds of its own.")
    about = about | {"environment": _described(environment), "options": options.told()}
    if about["environment"] is None and environment is not None:
        about = {"lost": "an environment that a function makes which cannot be imported"} | about
    given = options.action_bounds or ((facts.low, facts.high) if data_bounds else UNIT)
    if any(np.shape(item) not in ((), (1,), (facts.action,)) for item in given):
        raise ValueError(f"{name} takes action_bounds that are numbers, or {facts.action} for each end; got {given}.")
    bounds = tuple(np.broadcast_to(np.asarray(item, float), (facts.action,)) for item in given)
    if not np.all(bounds[0] < bounds[1]):
        raise ValueError(f"{name} takes action_bounds whose low is below its high; got {tuple(given)}.")
    source: Own = make_source(description=about, maker=environment, bounds=bounds, keys=options.keys)
    limit = None
    if environment is not None:
        seen, bounds, limit = _look(source, options.keys, label)
        source = dataclasses.replace(source, bounds=bounds)
        if (seen, len(bounds[0])) != (facts.observation, facts.action):
            have = f"{name} has observations of shape {facts.observation} and {facts.action} actions"
            raise ValueError(f"{have}; {label} has {seen} and {len(bounds[0])}.")
    elif not options.action_bounds and not data_bounds and (np.min(facts.low) < -1.001 or np.max(facts.high) > 1.001):
        got = f"{name} has actions from {np.min(facts.low):g} to {np.max(facts.high):g}"
        raise ValueError(
            f"{got} and no environment that bounds them: say action_bounds=(low, high), or --action-bounds."
        )
    if not spaces.is_unit(bounds):
        between = f"between {np.min(bounds[0]):g} and {np.max(bounds[1]):g}"
        warnings.warn(f"{name} has actions {between}: they are rescaled to [-1, 1], and back.", stacklevel=3)
    return _filled(name, facts, label, options, source, limit)


def _look(source, keys, where):
    """The shape of the environment's observations, the bounds of its actions, and its limit of steps."""
    environment = source.make()
    try:
        seen = spaces.observation_shape(environment.observation_space, keys, where)
        limit = environment.spec.max_episode_steps if environment.spec is not None else None
        return seen, spaces.action_bounds(environment.action_space, where), limit
    finally:
        environment.close()


def _label(environment):
    """What names an environment to a reader; empty for none."""
    if environment is None or isinstance(environment, str):
        return environment or ""
    name = getattr(environment, "__qualname__", type(environment).__qualname__)
    return "an environment of your own" if "<lambda>" in name else name.replace("<locals>.", "")


def _described(environment):
    """What an environment can be made from again; None where nothing can."""
    return environment if environment is None or isinstance(environment, str) else spaces.import_path(environment)


def _filled(name, facts, label, options, source, limit) -> Task:
    what = options.description or f"data of your own ({facts.observation[0]} observations, {facts.action} actions)"
    dataset = DataSet(name, label, facts.observation, facts.action, facts.steps, what, origin=source)
    score = options.score or ("return" if options.references is None else "normalized return")
    tenth = options.updates // 10
    return Task(
        name=name,
        group="own",
        dataset=dataset,
        environment=label,
        horizon=options.horizon or limit or facts.steps,
        parts=0,
        success_ends=False,
        discount=options.discount,
        q_agg=options.q_agg,
        fql_alpha=options.fql_alpha,
        budget=options.budget,
        updates=options.updates,
        evaluations=options.evaluations
        or tuple(sorted({max(1, step) for step in (8 * tenth, 9 * tenth)} | {options.updates})),
        score=score,
        default=True,
        reward_shift=options.reward_shift,
        references=options.references,
    )

"""What a metric is made of and what its KL is: the time it reads at, its settings, the KL promised and spent, and the return.

Nothing is trained here: the numbers are those of records beside the doses. `ablation-*` are ladders of one frozen run in which
one setting differs, `audit-*` what whole trainings spend, `evaluated-*` what they reach, and `played-*` ladders that were played
in the environment.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from fdbook.geometry import metrics
from fdbook.report import style
from fdbook.report.figures import Context


__all__ = ["compute", "draw", "draw_played", "join_seeds", "played_curves"]

AT = 0.2
"""The exact KL, in nats, at which settings are compared."""
KINDS = ("ablation", "audit", "played")
SEEDS = "-seeds-"
"""What stands in the name of a record of more seeds of a training, behind the training's own."""
LEAST = 0.05
"""Where a logarithmic axis shows no KL at all, in nats."""
BREAK = LEAST * np.sqrt(2)
"""Where such an axis is broken, between none and its first tick."""
APART = 5
"""How many goals in a hundred two marks of a metric are apart for an arrow between them."""
PLAIN = {"fisher-exact": "exact score"}
"""What a metric is called in front of a setting, where that is not its label."""
DAMPING = metrics.make("deblurred").damping
"""What a metric has where its damping is not what is changed."""


def compute(context: Context) -> dict:
    """Of each ablation the ratio to L2 at the exact KL `AT` with its interval, beside what E26 predicts; of each audit the KL of
    each agent; of ladders that were played, the score at every rung in the mean over agents, with that of the flow.

    Audits of one-step policies, whose KL is an estimate, are left out. Raises FileNotFoundError when there is no record of one of
    the three kinds, and ValueError for ablations that do not compare at `AT`.
    """
    found: dict[str, dict] = {kind: {} for kind in KINDS}
    trees = join_seeds(context.ladders())
    for name, tree in trees.items():
        kind = name.split("-")[0]
        if kind in KINDS and (kind != "audit" or tree["audit"]["exact_kl"]):
            found[kind][name] = tree
    for kind in KINDS:
        if not found[kind]:
            raise FileNotFoundError(
                f"There is no record of the kind {kind}; make one with fdbook {'audit' if kind == 'audit' else 'ladder'} RUN "
                f"--out figures/data/ladders/{kind}-NAME.json"
            )
    ablations = [row for name, tree in found["ablation"].items() for row in _ablation(name, tree)]
    played = {name: played_curves(tree) for name, tree in found["played"].items()}
    return {
        "at": AT,
        "ablations": ablations,
        "audits": {name: _audit(tree) for name, tree in found["audit"].items()},
        "played": played,
        "whole": _whole(trees),
        "starts": sorted({tree["ladder"]["starts"] for tree in found["played"].values()}),
    }


def join_seeds(trees: dict[str, dict]) -> dict[str, dict]:
    """The records by name, those of more seeds of a training, NAME-seeds-..., joined with those of NAME in the order of seeds.

    Raises ValueError where their runs differ in more than their seeds.
    """
    groups: dict[str, list[tuple[str, dict]]] = {}
    for name, tree in trees.items():
        groups.setdefault(name.split(SEEDS)[0], []).append((name, tree))
    result = {}
    for home, parts in groups.items():
        if len(parts) == 1:
            result[home] = parts[0][1]
            continue
        parts.sort(key=lambda part: part[1]["run"]["seeds"])
        runs = [{key: value for key, value in tree["run"].items() if key != "seeds"} for _, tree in parts]
        if any(run != runs[0] for run in runs):
            names = ", ".join(name for name, _ in parts)
            raise ValueError(f"The records {names} are not seeds of one training: their runs differ in more.")
        result[home] = _join([tree for _, tree in parts])
    return result


def _join(trees: list[dict]) -> dict:
    """One record whose lists, one value for each agent, are those of all of them."""
    first, seeds = trees[0], [seed for tree in trees for seed in tree["run"]["seeds"]]
    result = first | {"run": first["run"] | {"seeds": seeds}}
    for part in {"audit", "evaluation"} & first.keys():
        whole = {key: value for key, value in first[part].items() if not isinstance(value, list)}
        lists = {key: [item for tree in trees for item in tree[part][key]] for key in first[part].keys() - whole.keys()}
        result[part] = whole | lists
    return result


def _ablation(name, tree) -> list[dict]:
    """The metrics of a ladder but L2, each with its settings, and those of the ladder that matter to it."""
    rows, first = [], tree["metrics"][0]["ratio"]["kl"]
    if AT not in first:
        raise ValueError(f"The ladder {name} compares metrics at {first} nats; the figure needs {AT:g} among them.")
    for entry in tree["metrics"]:
        if entry["metric"]["name"] == "l2":
            continue
        at = entry["ratio"]["kl"].index(AT)
        ratio = [entry["ratio"][part][at] for part in ("ratio", "low", "high")]
        settings = {name: entry["metric"].get(name) for name in ("t", "damping", "trace_normalized")}
        rows.append(
            {
                "name": entry["metric"]["name"],
                **settings,
                "readings": tree["ladder"]["readings"],
                "updates": tree["ladder"]["updates"],
                "fingerprint": tree["fingerprint"],
                "ratio": np.array(ratio, float),
                "predicted": float(np.mean(entry["predicted"])),
                "folded": float(np.max(entry["folded"])),
            }
        )
    return rows


def _audit(tree) -> dict:
    """What the agents of a run spend, what their metric says, and where its displacement ends."""
    audit, metric = tree["audit"], tree["run"].get("metric")
    dose, config = tree["run"]["data"].get("dose") or {}, tree["run"]["config"]
    return {
        "name": metric["name"] if isinstance(metric, dict) else "l2",
        "normalized": bool(isinstance(metric, dict) and metric.get("trace_normalized")),
        "across": dose.get("across"),
        "held at a budget": bool(config["dual_ascent"]),
        "kl": np.array(audit["kl"], float),
        "surrogate": np.array(audit["surrogate"], float),
        "off": float(np.mean(audit["off"])),
        "clipped": float(np.mean(audit["clipped"])),
        "folded": float(np.mean(audit["folded"])),
    }


def _whole(trees) -> dict[str, dict]:
    """Of whole trainings, audited and evaluated: the number of critics, and the exact KL and the score of each agent."""
    made = {}
    for name, tree in trees.items():
        audited = trees.get(name.replace("evaluated-", "audit-", 1))
        if name.startswith("evaluated-") and audited is not None:
            about = _audit(audited)
            scores = {"score": np.array(tree["evaluation"]["score"]), "length": np.array(tree["evaluation"]["length"])}
            about = {key: about[key] for key in ("name", "normalized", "kl")} | scores
            made[name.removeprefix("evaluated-")] = about | {"critics": tree["run"]["config"]["num_critics"]}
    return made


def played_curves(tree: dict) -> dict:
    """Of a played ladder's record: the flow's own score, the condition number of its dose, and a curve of each metric."""
    dose = tree["run"]["data"].get("dose") or {}
    widths = sorted(dose.get(name) or 1.0 for name in ("along", "across"))
    curves = [
        {
            "label": entry["label"],
            "name": entry["metric"]["name"],
            "normalized": bool(entry["metric"]["trace_normalized"]),
            "kl": np.mean(entry["kl"], axis=1),
            "score": np.mean(entry["played"]["score"], axis=1),
            "length": np.mean(entry["played"]["length"], axis=1),
        }
        for entry in tree["metrics"]
    ]
    about = {"flow": float(np.mean(tree["base"]["score"])), "condition": (widths[1] / widths[0]) ** 2}
    return about | {"fingerprint": tree["fingerprint"], "curves": curves}


def draw(numbers: dict) -> Figure:
    """Ratios against the time, and of other settings; the KL that is spent and what the metric says; scores against the KL."""
    fig, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 0.86 * style.WIDTH))
    _times(axes[0, 0], numbers)
    _settings(axes[0, 1], numbers)
    _promised(axes[1, 0], numbers["audits"])
    _returns(axes[1, 1], numbers)
    for letter, ax in zip("abcd", axes.flat, strict=True):
        style.panel_label(ax, letter)
    _legend(fig, numbers)
    return fig


def _legend(fig, numbers) -> None:
    """One legend for all panels, below them."""
    curves = [curve for item in numbers["played"].values() for curve in item["curves"]]
    parts = (numbers["ablations"], curves, numbers["audits"].values())
    names = {row["name"] for part in parts for row in part}
    handles = [Line2D([], [], **style.look(name)) for name in style.METRIC_LABELS if name in names]
    plain = {"color": style.INK, "linestyle": "none", "marker": "o", "markerfacecolor": "white"}
    handles.append(Line2D([], [], **plain, label="open: trace-normalized"))
    if not all(ours for _, ours in _shown(numbers)):
        handles.append(Line2D([], [], color=style.INK, linewidth=0.8, alpha=0.6, label="thin: rounder data"))
    if numbers["whole"]:
        critics = " or ".join(str(n) for n in sorted({row["critics"] for row in numbers["whole"].values()}))
        words = f"large: trained whole ({critics} critics)"
        handles.append(Line2D([], [], **plain | {"markerfacecolor": style.INK}, markersize=9, label=words))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7, columnspacing=1.2)


def _look(row, **changes) -> dict:
    look = style.look(row["name"], **changes)
    if row.get("normalized", row.get("trace_normalized")):
        look |= {"markerfacecolor": "white", "markeredgecolor": look["color"], "markeredgewidth": 1.0}
    return look


def _time(row):
    """The time of a row, where it is one number."""
    return row["t"] if isinstance(row["t"], float) else None


def _times(ax, numbers) -> None:
    """Measured with intervals, predicted as a thin line, for every metric that was read at several times."""
    usual = max(row["readings"] for row in numbers["ablations"] if _time(row) not in (None, 0.9))
    rows = [row for row in numbers["ablations"] if _time(row) and row["readings"] == usual]
    rows = [row for row in rows if row["damping"] == DAMPING and not row["trace_normalized"]]
    for name in sorted({row["name"] for row in rows}):
        own = sorted((row for row in rows if row["name"] == name), key=lambda row: row["t"])
        times = np.array([row["t"] for row in own])
        middle, low, high = np.array([row["ratio"] for row in own]).T
        ax.errorbar(times, middle, np.maximum([middle - low, high - middle], 0), elinewidth=0.8, **_look(own[0]))
        ax.plot(times, [row["predicted"] for row in own], color=style.METRIC_COLORS[name], linewidth=0.8, alpha=0.7)
    ax.set(xlabel="time t at which the flow is read", ylabel=f"gain over that of L2, at {numbers['at']:g} nats")
    ax.xaxis.set_major_locator(FixedLocator(sorted({row["t"] for row in rows})))
    ax.set_title("thin lines: predicted by E26")


def _plain(row) -> str:
    return PLAIN.get(row["name"], style.METRIC_LABELS[row["name"]])


def _settings(ax, numbers) -> None:
    """One row for each setting that is not the usual one."""
    rows = []
    for row in numbers["ablations"]:
        if row["damping"] != DAMPING or row["trace_normalized"]:
            rows.append((f"{_plain(row)}, damping {row['damping']:g}", row))
        elif _time(row) not in (None, 0.9):
            continue
        else:
            rows.append((f"{_plain(row)}, {row['readings']} readings", row))
    rows.sort(key=lambda item: (item[1]["trace_normalized"], item[1]["name"], item[1]["readings"], item[1]["damping"]))
    for place, (_, row) in enumerate(rows):
        middle, low, high = row["ratio"]
        ax.errorbar(middle, place, xerr=[[middle - low], [high - middle]], elinewidth=0.8, **_look(row))
        ax.plot(row["predicted"], place, marker="|", markersize=9, color=style.METRIC_COLORS[row["name"]])
    ax.axvline(1, color=style.GRAY, linewidth=0.7)
    ax.set(xlabel="gain over that of L2")
    ax.set_yticks(range(len(rows)), [words for words, _ in rows], fontsize=7)
    ax.invert_yaxis()
    ax.set_title(f"at {numbers['at']:g} nats; ticks: predicted by E26")


def _promised(ax, audits) -> None:
    """The exact KL of each agent against what its metric takes it to be; on the line, a promise is kept."""
    ax.set(xscale="log", yscale="log", xlabel="KL that the metric says (nats)", ylabel="exact KL (nats)")
    held = [row["across"] for row in audits.values() if row["held at a budget"] and row["across"] is not None]
    ends = [np.inf, 0.0]
    for row in audits.values():
        ax.plot(row["surrogate"], row["kl"], **_look(row, label=None, linestyle="none"))
        both = np.concatenate([row["surrogate"], row["kl"]])
        ends = [min(ends[0], both.min()), max(ends[1], both.max())]
        if row["held at a budget"] and row["across"] in (min(held, default=None), max(held, default=None)):
            place = (1.15 * row["surrogate"].max(), np.exp(np.log(row["kl"]).mean()))
            ax.annotate(f"noise {row['across']:g}", place, fontsize=7, va="center", color=style.GRAY)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.plot(ends, ends, color=style.GRAY, linewidth=0.7)
    ax.set(xlim=limits[0], ylim=limits[1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator((0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    ax.set_title("whole trainings; line: a kept promise")


def _shown(numbers) -> list[tuple[dict, bool]]:
    """The ladders of panel d: those of the run of the ablations (True), and those on rounder data (False)."""
    played, run = numbers["played"].values(), numbers["ablations"][0]["fingerprint"]
    thinnest = max(item["condition"] for item in played)
    chosen = [(item, item["fingerprint"] == run) for item in played]
    return [(item, ours) for item, ours in chosen if ours or item["condition"] < thinnest]


def draw_played(ax: Axes, item: dict, **changes: Any) -> None:
    """The goals that a ladder's displacements reach against their KL, by `played_curves`; left of the break the flow's own.

    `changes` override how the curves look.
    """
    for curve in item["curves"]:
        look = _look(curve, **changes)
        ax.plot(np.append(LEAST, curve["kl"]), np.append(item["flow"], curve["score"]), **look)
    ax.axvspan(BREAK / 1.04, BREAK * 1.04, color="white", zorder=2.2, linewidth=0)
    marks = {"ha": "center", "va": "center", "fontsize": 8, "color": style.GRAY, "zorder": 4}
    frame = {"facecolor": "white", "edgecolor": "none", "pad": 0.2}
    ax.text(BREAK, 0, "//", transform=ax.get_xaxis_transform(), bbox=frame, **marks)
    ax.set(xscale="log", xlabel="exact KL (nats)", ylabel="goals reached (%)", ylim=(0, None))
    ax.xaxis.set_major_locator(FixedLocator((LEAST, 0.1, 0.2, 0.5, 1, 2)))
    ax.xaxis.set_major_formatter(lambda x, _: "flow" if x == LEAST else f"{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())


def _returns(ax, numbers) -> None:
    """Goals reached against the KL: the run of the ablations, and, as thin lines, runs on rounder data."""
    for item, ours in _shown(numbers):
        draw_played(ax, item, **({} if ours else {"marker": "", "linewidth": 0.8, "alpha": 0.6}))
    _draw_whole(ax, numbers["whole"].values())
    ax.set_title("started anywhere in the maze" if numbers["starts"] == ["anywhere"] else "played")


def _draw_whole(ax, trainings) -> None:
    """A large mark for each whole training with its number of critics; an arrow where more critics change what is reached."""
    halo, groups = [withStroke(linewidth=2.2, foreground="white")], {}
    for row in sorted(trainings, key=lambda row: row["critics"]):
        groups.setdefault((row["name"], row["normalized"]), []).append((row, (row["kl"].mean(), row["score"].mean())))
    ends = sorted(rows[-1][1][1] for rows in groups.values() if len(rows) > 1)
    for _, rows in sorted(groups.items(), key=lambda item: item[0][1]):
        (_, first), (_, last) = rows[0], rows[-1]
        if abs(last[1] - first[1]) > APART:
            arrow = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 0.9, "shrinkA": 6, "shrinkB": 6}
            ax.annotate("", last, first, arrowprops=arrow | {"path_effects": halo}, zorder=5)
        for row, place in rows:
            open_ = {"markerfacecolor": "none", "markeredgewidth": 1.8} if row["normalized"] else {"alpha": 0.85}
            ax.plot(*place, **_look(row, linestyle="none", markersize=8, label=None, zorder=3.5) | open_)
            later = len(rows) > 1 and place == last
            up = 8 * (ends.index(place[1]) - (len(ends) - 1) / 2) if later else 0
            about = {"xytext": (-7 if later else 7, up), "textcoords": "offset points", "fontsize": 7, "zorder": 6}
            about |= {"ha": "right" if later else "left", "va": "center", "path_effects": halo}
            ax.annotate(str(row["critics"]), place, color=style.INK, **about)

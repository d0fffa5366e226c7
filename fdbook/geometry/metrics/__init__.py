"""Metrics as values: what a displacement of the behavior's actions costs.

A metric reads something off the flow at K actions of one state (nothing, scores, or one matrix for each action), and charges
a displacement delta of each action a quadratic cost. One convention holds for all of them (E18 to E22): the penalty of an actor
loss is the mean cost over d, without a factor 1/2, so that a budget means the same under each of them wherever the Fisher
information is the identity. Half the mean cost, with neither damping nor normalization, is what the metric takes the KL
divergence to be (E10, E11).

| name                    | class                                       | cost of one action                         | equation |
|-------------------------|---------------------------------------------|--------------------------------------------|----------|
| `l2`                    | `L2()`                                      | abs(delta)^2                               | E18      |
| `fisher-paper`          | `Fisher(score="exact", pooled=False)`       | (score . delta)^2, at the action itself    | E11, E19 |
| `fisher-released`       | `Fisher(score="released")`                  | delta^T F delta, F from v / (1 - t)        | E20, E7  |
| `fisher-exact`          | `Fisher(score="exact")`                     | delta^T F delta, F from the exact score    | E21, E5  |
| `fisher-rao`            | `FisherRao()`                               | (score . delta + div delta)^2              | E22, E10 |
| `fisher-scale`          | `FisherScale()`                             | abs(delta)^2 tr F / d: no direction        | E21      |
| `information`           | `Information()`                             | delta^T H delta, H = -Hess log p_t         | E28      |
| `information-local`     | `Information(pooled=False)`                 | the same, H of the action itself           | E28      |
| `information-deblurred` | `Information(deblurred=True)`               | the blur taken out of the mean H           | E29      |
| `information-sharp`     | `Information(deblurred=True, pooled=False)` | the blur taken out of the action's H       | E29      |

`make`, `to_dict` and `from_dict` know metrics by name. A new metric is a final subclass of `Metric` (`base.py`) with its options
as static fields, and joins by one call of `register` (`registry.py`).
"""

from fdbook.geometry.metrics.base import L2, Metric, Times, normalize_trace, perturb
from fdbook.geometry.metrics.matrices import Curvatures, Information
from fdbook.geometry.metrics.registry import (
    NAMES,
    from_dict,
    make,
    register,
    short_name,
    summaries,
    to_dict,
    unusual,
)
from fdbook.geometry.metrics.scores import Fisher, FisherRao, FisherScale, ScoreMetric, fisher_matrix, perturbed_scores
from fdbook.geometry.quadratic import alignment, check_metric, condition_number, ellipse, spectrum


__all__ = [
    "L2",
    "NAMES",
    "Curvatures",
    "Fisher",
    "FisherRao",
    "FisherScale",
    "Information",
    "Metric",
    "ScoreMetric",
    "Times",
    "alignment",
    "check_metric",
    "condition_number",
    "ellipse",
    "fisher_matrix",
    "from_dict",
    "make",
    "normalize_trace",
    "perturb",
    "perturbed_scores",
    "register",
    "short_name",
    "spectrum",
    "summaries",
    "to_dict",
    "unusual",
]

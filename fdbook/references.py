r"""The registry of equations: what each id stands for, in one sentence and in LaTeX, and where it comes from.

Docstrings, notebooks and tests cite these ids, so that a reader can go from a line of code to its derivation and to
the test that checks it. A test holds the registry to the ids in use: none is cited that is not here, and none is here
that is cited nowhere.

Notation: a, delta and scores lie in R^d, where d is the dimension of an action; s is a state; z ~ N(0, I); x_t is the
point of the path E1 at time t, and p_t its law; pi_beta is the behavior policy, pi_theta the improved one; sg stops
the gradient.
"""

from dataclasses import dataclass

from fdbook.checks import unknown


__all__ = ["EQUATIONS", "PAPERS", "Equation", "Paper", "bibtex", "cite"]


@dataclass(frozen=True)
class Paper:
    """One source: `kind` is its BibTeX type, `venue` the journal or conference (empty for a preprint)."""

    key: str
    authors: str
    title: str
    year: int
    arxiv: str = ""
    venue: str = ""
    kind: str = "misc"

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        where = {"inproceedings": "booktitle", "article": "journal"}.get(self.kind, "howpublished")
        fields = {"author": self.authors, "title": f"{{{self.title}}}", "year": str(self.year), where: self.venue}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
        return f"@{self.kind}{{{self.key},\n" + ",\n".join(lines) + "\n}"

    def __str__(self) -> str:
        names = self.authors.split(" and ")
        last = [name.split(",")[0] for name in names]
        people = last[0] if len(last) == 1 else " and ".join(last) if len(last) == 2 else f"{last[0]} et al."
        where = ", ".join(part for part in (self.venue, f"arXiv {self.arxiv}" if self.arxiv else "") if part)
        return f"{people} ({self.year}), {self.title}" + (f", {where}" if where else "")


@dataclass(frozen=True)
class Equation:
    """One equation: `name` says what it is, `statement` is LaTeX, `source` a key of PAPERS (empty: derived here)."""

    id: str
    name: str
    statement: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.id}, {self.name} [{PAPERS[self.source] if self.source else 'derived in this book'}]"


PAPERS: dict[str, Paper] = {
    paper.key: paper
    for paper in (
        Paper(
            "fidec",
            "Cheng, Xiaoyuan and Wang, Haoyu and Yuan, Wenxuan and Wang, Ziyan and Chen, Zonghao and Zeng, Li"
            " and Sun, Zhuo",
            "Fisher Decorator: Refining Flow Policy via A Local Transport Map",
            2026,
            "2604.17919",
        ),
        Paper(
            "fidec-code",
            "Cheng, Xiaoyuan and Wang, Haoyu",
            "Fisher Decorator, the released code",
            2026,
            venue="GitHub repository ARC0127/Fisher-Decorator",
        ),
        Paper(
            "deflow",
            "Mu, Zhancun",
            "DeFlow: Decoupling Manifold Modeling and Value Maximization for Offline Policy Extraction",
            2026,
            "2601.10471",
        ),
        Paper(
            "fql",
            "Park, Seohong and Li, Qiyang and Levine, Sergey",
            "Flow Q-Learning",
            2025,
            "2502.02538",
            "International Conference on Machine Learning",
            "inproceedings",
        ),
        Paper(
            "flow-matching",
            "Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel, Maximilian and Le, Matt",
            "Flow Matching for Generative Modeling",
            2023,
            "2210.02747",
            "International Conference on Learning Representations",
            "inproceedings",
        ),
        Paper(
            "ffjord",
            "Grathwohl, Will and Chen, Ricky T. Q. and Bettencourt, Jesse and Sutskever, Ilya and Duvenaud, David",
            "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models",
            2019,
            "1810.01367",
            "International Conference on Learning Representations",
            "inproceedings",
        ),
        Paper(
            "kantorovich",
            "Kantorovich, L. V.",
            "Functional analysis and applied mathematics",
            1948,
            venue="Uspekhi Matematicheskikh Nauk 3(6)",
            kind="article",
        ),
        Paper(
            "reps",
            "Peters, Jan and Mülling, Katharina and Altün, Yasemin",
            "Relative Entropy Policy Search",
            2010,
            venue="AAAI Conference on Artificial Intelligence",
            kind="inproceedings",
        ),
        Paper(
            "ogbench",
            "Park, Seohong and Frans, Kevin and Eysenbach, Benjamin and Levine, Sergey",
            "OGBench: Benchmarking Offline Goal-Conditioned RL",
            2025,
            "2410.20092",
            "International Conference on Learning Representations",
            "inproceedings",
        ),
        Paper(
            "d4rl",
            "Fu, Justin and Kumar, Aviral and Nachum, Ofir and Tucker, George and Levine, Sergey",
            "D4RL: Datasets for Deep Data-Driven Reinforcement Learning",
            2020,
            "2004.07219",
        ),
    )
}

EQUATIONS: dict[str, Equation] = {
    equation.id: equation
    for equation in (
        Equation(
            "E1",
            "the straight path and its velocity",
            r"x_t = (1 - t)\, z + t\, a, \qquad u = \tfrac{d}{dt} x_t = a - z",
            "flow-matching",
        ),
        Equation(
            "E2",
            "the flow-matching loss",
            r"L = E\, |v(t, s, x_t) - u|^2, \qquad t \sim U[0, 1]",
            "flow-matching",
        ),
        Equation(
            "E3",
            "sampling: the flow carries noise to an action",
            r"\dot x = v(t, s, x), \qquad x(0) = z, \qquad a = x(1)",
            "fql",
        ),
        Equation(
            "E4",
            "the likelihood of an action, by following its trajectory back to the noise",
            r"\log \pi(a|s) = \log N(x(0); 0, I) - \int_0^1 \operatorname{div}_x v(t, s, x(t))\, dt",
            "ffjord",
        ),
        Equation(
            "E5",
            "the score of the noised density, read from the velocity",
            r"\nabla_x \log p_t(x|s) = \frac{t\, v(t, s, x) - x}{1 - t}, \qquad 0 < t < 1",
            "fidec",
        ),
        Equation(
            "E6",
            "the perturbed time: an error of the velocity grows by t / (1 - t) in the score",
            r"e_{\mathrm{score}} = \frac{t}{1 - t}\, e_v, \qquad t_\epsilon < 1",
            "fidec",
        ),
        Equation(
            "E7",
            "what the released code uses as a score",
            r"\frac{v}{1 - t} = \frac{1}{t} \nabla_x \log p_t(x|s) + \frac{x}{t\,(1 - t)}",
            "fidec-code",
        ),
        Equation(
            "E8",
            "the local transport map",
            r"T_s(a) = a + \delta(s, a), \qquad \pi_\theta = (T_s)_\# \pi_\beta",
            "fidec",
        ),
        Equation(
            "E9",
            "the exact KL of a transport map that is one-to-one",
            r"KL(\pi_\theta | \pi_\beta) = E_{a \sim \pi_\beta}\left[\log \pi_\beta(a) - \log \pi_\beta(a + \delta)"
            r" - \log |\det(I + \nabla \delta)|\right]",
        ),
        Equation(
            "E10",
            "the complete second order of the KL, in two forms",
            r"KL = \tfrac12 E\left[(\nabla \log \pi_\beta \cdot \delta + \operatorname{div} \delta)^2\right]"
            r" + O(|\delta|^3) = \tfrac12 E\left[-\delta^T (\nabla^2 \log \pi_\beta)\, \delta"
            r" + \operatorname{tr}((\nabla \delta)^2)\right] + O(|\delta|^3)",
        ),
        Equation(
            "E11",
            "the paper's quadratic form: E10 without the divergence",
            r"KL \approx \tfrac12 E\left[(\nabla \log \pi_\beta \cdot \delta)^2\right]"
            r" = \tfrac12 E\left[\delta^T I(s, a)\, \delta\right]",
            "fidec",
        ),
        Equation(
            "E12",
            "a Gaussian scaled by 1 + e: E11 over E10",
            r"\delta = e\, a: \quad E10 = e^2 d, \quad E11 = \tfrac12 e^2 (d^2 + 2d), \quad "
            r"E11 / E10 = \tfrac12 (d + 2)",
        ),
        Equation(
            "E13",
            "the best step of a given KL",
            r"\max_\delta\, g^T \delta \ \text{s.t.}\ \tfrac12 \delta^T F \delta \le \epsilon: \quad "
            r"\delta^* = \sqrt{\frac{2 \epsilon}{g^T F^{-1} g}}\, F^{-1} g, \quad "
            r"\text{gain} = \sqrt{2 \epsilon\, g^T F^{-1} g}",
        ),
        Equation(
            "E14",
            "the L2 step of the same KL",
            r"\delta = \rho\, g / |g|, \qquad \text{gain} = \sqrt{2 \epsilon}\, \frac{|g|^2}{\sqrt{g^T F g}}",
        ),
        Equation(
            "E15",
            "the gap between E14 and E13 is a Kantorovich ratio",
            r"\frac{2 \sqrt{\kappa}}{1 + \kappa} \le \frac{|g|^2}{\sqrt{(g^T F g)(g^T F^{-1} g)}} \le 1, \qquad "
            r"\kappa = \operatorname{cond}(F)",
            "kantorovich",
        ),
        Equation(
            "E16",
            "the critic's loss: the target joins an ensemble of slow copies by its mean or its minimum",
            r"L_Q = E\left[(Q(s, a) - r - \gamma\, m\, \operatorname{agg}_i \bar Q_i(s', \pi(s')))^2\right], \qquad "
            r"\bar Q_i \gets (1 - \tau)\, \bar Q_i + \tau\, Q_i",
            "fql",
        ),
        Equation(
            "E17",
            "Flow Q-Learning: a one-step policy, held to the flow by an L2 distance",
            r"L = \alpha\, E\left|\mu(s, z) - \operatorname{sg}(\mathrm{flow}(s, z))\right|^2 - E\, Q(s, \mu(s, z))",
            "fql",
        ),
        Equation(
            "E18",
            "DeFlow: an L2 budget for the displacement, kept by a multiplier",
            r"L = \alpha\, E|\delta|^2 / d - Q(s, \operatorname{clip}(a')), \qquad "
            r"a' = \operatorname{sg}(\mathrm{flow}(s, z)) + \delta",
            "deflow",
        ),
        Equation(
            "E19",
            "FiDec as the paper writes it: E18 with the quadratic form of E11, without its 1/2, so that budgets compare",
            r"|\delta|^2 \;\to\; \delta^T I \delta, \quad "
            r"I = \text{score}\,\text{score}^T \text{ from E5, trace-normalized}",
            "fidec",
        ),
        Equation(
            "E20",
            "FiDec as its released code computes it: a mean Fisher matrix per state, its scores from E7",
            r"L = \alpha\, E_s\left[\delta^T \bar F(s)\, \delta\right] / d - Q, \qquad "
            r"\bar F(s) = \tfrac1K \sum_k \text{score}_k\, \text{score}_k^T + 10^{-3} I,"
            r"\text{ divided by } \operatorname{tr}(\bar F) / d",
            "fidec-code",
        ),
        Equation(
            "E21",
            "FiDec with the exact score: E20 with E5 in place of E7",
            r"\text{score}_k = \frac{t_k\, v_k - x_k}{1 - t_k}",
        ),
        Equation(
            "E22",
            "FiDec with the complete second order: E18 with E10, without its 1/2, so that budgets compare",
            r"|\delta|^2 \;\to\; (\text{score} \cdot \delta + \operatorname{div} \delta)^2",
        ),
        Equation(
            "E23",
            "dual ascent: the multiplier that keeps a budget, as the released code learns it and as the paper writes it",
            r"L_{\mathrm{dual}} = -\log \alpha \cdot \operatorname{sg}(\text{penalty} - \text{budget}) \qquad "
            r"\lambda \gets \max(0, \lambda + \eta\, (\text{penalty} - \text{budget}))",
            "fidec-code",
        ),
        Equation(
            "E24",
            "trace normalization: an isotropic Fisher matrix becomes the identity",
            r"F \;\to\; F\, d / \operatorname{tr} F",
        ),
        Equation(
            "E25",
            "the best that a KL can buy: the behavior, tilted by the value",
            r"\pi^* \propto \pi_\beta\, e^{Q / \lambda} \text{ maximizes } E_\pi Q \text{ at equal } "
            r"\mathrm{KL}(\pi \,|\, \pi_\beta)",
            "reps",
        ),
        Equation(
            "E26",
            "the efficiency of a step in a metric M where the true information is F: its share of the best gain at equal cost",
            r"\eta = \frac{g^T M^{-1} g}{\sqrt{(g^T F^{-1} g)(g^T M^{-1} F M^{-1} g)}} \in "
            r"\left[\tfrac{2\sqrt k}{1 + k}, 1\right], \qquad k = \operatorname{cond}(M^{-1} F)",
        ),
        Equation(
            "E27",
            "the blur of the perturbed time, in closed form: what the metric at time t sees of a Gaussian",
            r"F_t = \left(t^2 \Sigma + (1 - t)^2 I\right)^{-1}, \qquad \operatorname{cond}(F_t^{-1} F) = "
            r"\frac{t^2 + (1 - t)^2 / s_{\min}^2}{t^2 + (1 - t)^2 / s_{\max}^2}",
        ),
        Equation(
            "E28",
            "local information: a full matrix for each action from the Jacobian of the velocity",
            r"H(s, x, t) = -\nabla^2 \log p_t = \frac{I - t\, \partial v / \partial x}{1 - t}, \qquad E_{p_t} H = F_t",
        ),
        Equation(
            "E29",
            "deblurred information: the blur of the perturbed time taken out again (second-order Tweedie)",
            r"\hat I = t^2 H \left(I - (1 - t)^2 H\right)^{-1} = \operatorname{Cov}[a | x_t]^{-1} - "
            r"\left(\tfrac{t}{1 - t}\right)^2 I",
        ),
    )
}


def cite(equation: str) -> str:
    """One line for an equation's id: its name and its source. Raises ValueError for an id that is not in use."""
    if equation not in EQUATIONS:
        raise ValueError(unknown("equation", equation, EQUATIONS))
    return str(EQUATIONS[equation])


def bibtex() -> str:
    """The BibTeX of every paper, as one file."""
    return "\n\n".join(paper.bibtex for paper in PAPERS.values()) + "\n"

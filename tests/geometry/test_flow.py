"""Flows: loss, training, samples and likelihoods, against Gaussians and mixtures whose velocity is known (E1 to E4)."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from fdbook.geometry import densities, flow
from fdbook.geometry.densities import gaussian
from fdbook.geometry.flow import EMPTY, ExactVelocity, VelocityField


def random_gaussian(dim, seed=0):
    """A tilted Gaussian: its mean, its covariance and its exact velocity."""
    rng = np.random.default_rng(seed + dim)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    covariance = (axes * rng.uniform(0.1, 0.6, dim) ** 2) @ axes.T
    mean = rng.uniform(-0.5, 0.5, dim)
    return mean, covariance, ExactVelocity(gaussian(jnp.asarray(mean), jnp.asarray(covariance)))


def carried(mean, covariance, t, noise):
    """Where a Gaussian's flow takes a noise: t m + (t^2 S + (1 - t)^2 I)^(1/2) z, its eigenvectors staying where they are."""
    values, axes = np.linalg.eigh(covariance)
    return t * mean + noise @ (axes * np.sqrt(t**2 * values + (1 - t) ** 2)) @ axes.T


class Pendulum(eqx.Module):
    """A nonlinear field that NumPy can follow, with a weight to differentiate by."""

    weight: jax.Array
    action_dim: int = 2
    observation_dim: int = 1

    def __call__(self, t, observation, x):
        return jnp.stack([x[1] + t * observation[0], -self.weight * jnp.sin(3 * x[0]) - t])

    def by_numpy(self, t, observation, x):
        return np.array([x[1] + t * observation[0], -float(self.weight) * np.sin(3 * x[0]) - t])


PENDULUM, STATE, NOISE = Pendulum(jnp.asarray(2.0)), np.array([0.7]), np.array([0.4, -0.6])


class TestField:
    def test_every_argument_counts(self):
        field = VelocityField(2, 3, 8, 2, key=jr.key(0))
        s, x = jnp.zeros(2), jnp.zeros(3)
        base = field(0.5, s, x)
        assert base.shape == (3,)
        for other in (field(0.6, s, x), field(0.5, s.at[1].set(1.0), x), field(0.5, s, x.at[2].set(1.0))):
            assert np.max(np.abs(other - base)) > 1e-4

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_weights_are_float32_and_points_keep_their_precision(self, dtype):
        field = VelocityField(0, 2, 8, 1, key=jr.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(field, eqx.is_array))} == {jnp.dtype(jnp.float32)}
        assert field(0.5, EMPTY, jnp.zeros(2, dtype)).dtype == dtype

    def test_depth_counts_hidden_layers(self):
        shapes = [layer.weight.shape for layer in VelocityField(1, 2, 16, 3, key=jr.key(0)).mlp.layers]
        assert shapes == [(16, 4), (16, 16), (16, 16), (2, 16)]

    def test_bad_input(self, refused, unhooked):
        field = VelocityField(1, 2, 8, 1, key=jr.key(0))
        refused(
            field, 0.5, np.zeros(2), np.zeros(2), match=r"\(observation\) takes one point of shape \(1,\); got .*\(2,\)"
        )
        refused(field, 0.5, np.zeros(1), np.zeros((4, 2)), match=r"VelocityField \(x\) takes one .* Use jax.vmap")
        refused(field, np.zeros(4), np.zeros(1), np.zeros(2), match=r"takes a time of shape \(\); got shape \(4,\)")
        exact = ExactVelocity(gaussian(jnp.zeros(2), jnp.eye(2)))
        refused(exact, 0.5, EMPTY, np.zeros(3), match=r"ExactVelocity \(x\) takes one point of shape \(2,\)")
        for sizes in ((-1, 2, 8, 1), (0, 0, 8, 1), (0, 2, 0, 1), (0, 2, 8, 0)):
            refused(
                lambda sizes=sizes: VelocityField(*sizes, key=jr.key(0)), match="observation_dim >= 0 and action_dim"
            )


class TestLoss:
    """E2, whose value is known for fields that are known."""

    def losses(self, field, actions, repeats=200):
        empty = jnp.zeros((actions.shape[0], 0))
        one = jax.vmap(lambda key: flow.flow_matching_loss(field, empty, actions, key=key))
        return np.asarray(jax.jit(one)(jr.split(jr.key(1), repeats)))

    def test_of_no_velocity(self, budget):
        """|0 - (a - z)|^2 / d has mean |a|^2 / d + 1."""
        actions = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)))
        losses = self.losses(lambda t, s, x: 0 * x, actions)
        expected = np.mean(np.sum(actions**2, 1)) / 3 + 1
        assert abs(losses.mean() - expected) < budget("standard_errors") * losses.std() / np.sqrt(losses.size)

    def test_of_the_exact_velocity(self, budget):
        """The variance of a - z given x_t: s^2 / (t^2 s^2 + (1 - t)^2) in each direction of standard deviation s."""
        _, covariance, field = random_gaussian(2)
        actions = field.mixture.sample(20_000, key=jr.key(2))
        losses = self.losses(field, actions, 20)
        expected = np.mean(
            [
                scipy.integrate.quad(lambda t, v=v: v / (t**2 * v + (1 - t) ** 2), 0, 1)[0]
                for v in np.linalg.eigvalsh(covariance)
            ]
        )
        # the actions are a sample too: their spread adds to the standard error
        spread = np.sqrt(losses.var() / losses.size + np.var(np.asarray(actions), axis=0).mean() * 2 / 20_000)
        assert abs(losses.mean() - expected) < budget("standard_errors") * spread

    def test_the_exact_velocity_is_the_best(self, mixture):
        actions, exact = mixture.sample(4096, key=jr.key(3)), ExactVelocity(mixture)

        @jax.jit
        def loss(changes, key):
            def changed(t, s, x):
                v = exact(t, s, x)
                return v + changes[0] * v + changes[1] + changes[2] * x

            return flow.flow_matching_loss(changed, jnp.zeros((4096, 0)), actions, key=key)

        keys = jr.split(jr.key(1), 5)
        best, *others = (np.mean([loss(changes, key) for key in keys]) for changes in [np.zeros(3), *np.eye(3) / 10])
        assert best < min(others)


class Traced(VelocityField):
    """A field that counts how often it is traced."""

    count: list = eqx.field(static=True)

    def __init__(self, count):
        super().__init__(0, 2, 4, 1, key=jr.key(0))
        self.count = count

    def __call__(self, t, observation, x):
        self.count.append(1)
        return super().__call__(t, observation, x)


class TestFit:
    @pytest.mark.slow
    def test_reaches_the_loss_of_the_exact_velocity(self, fitted, mixture, budget):
        _, losses, _ = fitted
        exact = TestLoss().losses(ExactVelocity(mixture), mixture.sample(4096, key=jr.key(4)), 20).mean()
        assert losses.shape == (3000,)
        assert losses[:20].mean() > exact + 0.2
        assert abs(losses[-500:].mean() - exact) < budget("fitted_loss")

    def test_velocity_is_near_the_exact_one(self, fitted, mixture, budget):
        rng = np.random.default_rng(5)
        t = rng.uniform(size=2000)
        x = t[:, None] * np.asarray(mixture.sample(2000, key=jr.key(5))) + (1 - t[:, None]) * rng.normal(size=(2000, 2))
        learned = jax.vmap(fitted[0], in_axes=(0, None, 0))(t, EMPTY, x)
        exact = jax.vmap(mixture.velocity)(t, x)
        assert np.mean((learned - exact) ** 2) < budget("fitted_loss")

    @pytest.mark.slow
    def test_samples_lie_on_the_manifold(self, fitted, mixture, budget):
        noise = flow.noise(fitted[0], 4000, key=jr.key(6))
        assert noise.shape == (4000, 2)
        drawn = jax.jit(jax.vmap(lambda z: flow.sample(fitted[0], EMPTY, z, steps=50)))(noise)
        assert densities.off_manifold(mixture, drawn, key=jr.key(7)) < budget("fitted_off_manifold")
        errors = np.mean(drawn, 0) - mixture.weights @ mixture.means
        assert np.max(np.abs(errors)) < budget("fitted_mean")

    @pytest.mark.slow
    def test_log_prob_is_near_the_exact_one_and_integrates_to_one(self, fitted, plain, budget):
        """The flow of any smooth field carries all of its mass, however well it has been trained."""
        axis = np.arange(-3.5, 3.5, 0.1)
        grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        x = np.concatenate([plain.sample(400, np.random.default_rng(8)), grid])
        learned = np.asarray(jax.jit(jax.vmap(lambda a: flow.log_prob(fitted[0], EMPTY, a)))(x))
        errors = learned[:400] - plain.log_prob(x[:400])
        assert np.mean(np.abs(errors)) < budget("fitted_log_prob")
        assert abs(np.mean(errors)) < budget("fitted_log_prob") / 2
        assert np.exp(learned[400:]).sum() * 0.1**2 == pytest.approx(1, abs=budget("fitted_mass"))

    def test_the_callers_field_is_untouched(self, fitted):
        trained, _, field = fitted
        again = VelocityField(0, 2, 64, 2, key=jr.split(jr.key(0), 3)[0])
        for old, new in zip(jax.tree.leaves(field), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(old, new)
        assert not np.array_equal(trained.mlp.layers[0].weight, field.mlp.layers[0].weight)

    def short(self, key=0, **options):
        field, actions = VelocityField(0, 2, 8, 1, key=jr.key(0)), np.random.default_rng(0).normal(size=(100, 2))
        return flow.fit(
            field, actions, key=jr.key(key), **{"steps": 25, "batch_size": 16, "progress": False, **options}
        )

    @pytest.mark.slow
    def test_is_a_function_of_its_key(self):
        (one, losses), (two, again), (_, other) = self.short(), self.short(chunk=10), self.short(key=1)
        np.testing.assert_array_equal(losses, again)
        np.testing.assert_array_equal(one.mlp.layers[0].weight, two.mlp.layers[0].weight)
        assert not np.array_equal(losses, other)

    def test_average_of_the_weights(self):
        """With decay 0 the average is the trained field; with a decay it lags behind."""
        last, lagging = (self.short(decay=decay, steps=40)[0].mlp.layers[0].weight for decay in (0.0, 0.95))
        before = VelocityField(0, 2, 8, 1, key=jr.key(0)).mlp.layers[0].weight
        assert 0 < np.linalg.norm(lagging - before) < np.linalg.norm(last - before)

    @pytest.mark.slow
    def test_a_shorter_last_chunk_compiles_nothing(self):
        actions, counts = np.zeros((10, 2)), []
        for steps, chunk in ((20, 10), (23, 10), (29, 10)):
            count = []
            flow.fit(Traced(count), actions, key=jr.key(0), steps=steps, chunk=chunk, batch_size=4, progress=False)
            counts.append(len(count))
        assert counts[0] == counts[1] == counts[2]

    @pytest.mark.slow
    def test_learns_what_depends_on_the_observation(self, budget):
        """a ~ N(0.5 s, 0.1^2) for s = -1 and 1: the samples follow s."""
        rng = np.random.default_rng(1)
        states = rng.choice([-1.0, 1.0], (4000, 1))
        actions = 0.5 * states + 0.1 * rng.normal(size=(4000, 1))
        field = VelocityField(1, 1, 32, 2, key=jr.key(0))
        field, _ = flow.fit(
            field, actions, states, key=jr.key(1), steps=600, learning_rate=3e-3, decay=0.98, progress=False
        )
        draw = jax.jit(jax.vmap(lambda s, z: flow.sample(field, s, z, steps=20), in_axes=(None, 0)))
        for state in (-1.0, 1.0):
            drawn = np.asarray(draw(np.array([state]), flow.noise(field, 1000, key=jr.key(2))))
            assert drawn.mean() == pytest.approx(0.5 * state, abs=budget("fitted_mean"))
            assert drawn.std() == pytest.approx(0.1, abs=budget("fitted_mean"))

    def test_bad_input(self, refused, unhooked):
        field, good, options = (
            VelocityField(1, 2, 8, 1, key=jr.key(0)),
            np.zeros((5, 2)),
            {"key": jr.key(0), "progress": False},
        )
        fit = functools.partial(flow.fit, field, **options)
        refused(fit, np.zeros(5), match=r"flow.fit takes actions of shape \(n, 2\); got shape \(5,\)")
        refused(fit, np.float64(1.0), match=r"takes actions of shape \(n, 2\); got shape \(\)")
        refused(fit, good, match=r"takes observations of shape \(5, 1\); got shape \(5, 0\)")
        refused(fit, good, np.zeros((4, 1)), match=r"takes observations of shape \(5, 1\); got shape \(4, 1\)")
        refused(fit, good + np.array([0, np.nan]), np.zeros((5, 1)), match="flow.fit takes finite actions; 5 of 10")
        refused(fit, good, np.full((5, 1), np.inf), match="flow.fit takes finite observations; 5 of 5")
        refused(fit, np.zeros((0, 2)), np.zeros((0, 1)), match="one action; got .* and 0")
        for bad in ({"decay": 1.0}, {"decay": -0.1}, {"learning_rate": 0.0}, {"batch_size": 0}, {"steps": 0}):
            refused(
                lambda bad=bad: fit(good, np.zeros((5, 1)), **bad),
                match=r"flow.fit takes decay in \[0, 1\), a positive",
            )

    def test_a_loss_that_breaks_is_named(self):
        field = VelocityField(0, 2, 8, 1, key=jr.key(0))
        with pytest.raises(FloatingPointError, match="flow matching broke at step 0: loss became inf"):
            flow.fit(field, np.full((5, 2), 1e30), key=jr.key(0), steps=3, progress=False)


class TestSample:
    def test_default_is_ten_euler_steps(self, budget):
        x = NOISE
        for i in range(10):
            x = x + 0.1 * PENDULUM.by_numpy(i / 10, STATE, x)
        near = budget("closed_form")
        np.testing.assert_allclose(flow.sample(PENDULUM, STATE, NOISE), x, atol=near)
        clipped = flow.sample(PENDULUM, 10 * STATE, NOISE, clip=True)
        free = np.asarray(flow.sample(PENDULUM, 10 * STATE, NOISE))
        assert np.max(np.abs(free)) > 1
        np.testing.assert_allclose(clipped, np.clip(free, -1, 1))

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_points_keep_their_precision(self, dtype, budget):
        """Single precision stays single where double is at hand, and agrees with it."""
        field, noise = VelocityField(0, 2, 8, 1, key=jr.key(0)), jnp.asarray(NOISE, dtype)
        ends = flow.sample(field, EMPTY, noise), flow.trajectory(field, EMPTY, noise, jnp.array([0.5, 1.0]))[-1]
        value = flow.log_prob(field, EMPTY, ends[0], solver=diffrax.Euler())
        assert {ends[0].dtype, ends[1].dtype, value.dtype} == {jnp.dtype(dtype)}
        np.testing.assert_allclose(ends[0], flow.sample(field, EMPTY, NOISE), atol=budget("single_precision"))

    def test_solver_and_steps_are_arguments(self, budget):
        """Heun's method by hand, with 7 steps."""
        x, h = NOISE, 1 / 7
        for i in range(7):
            first = PENDULUM.by_numpy(i * h, STATE, x)
            x = x + h / 2 * (first + PENDULUM.by_numpy((i + 1) * h, STATE, x + h * first))
        heun = flow.sample(PENDULUM, STATE, NOISE, solver=diffrax.Heun(), steps=7)
        np.testing.assert_allclose(heun, x, atol=budget("closed_form"))

    @pytest.mark.parametrize("controlled", [False, True])
    def test_exact_flow_of_a_gaussian(self, controlled, budget):
        mean, covariance, field = random_gaussian(3)
        noise = np.random.default_rng(6).normal(size=(20, 3))
        controller = diffrax.PIDController(rtol=1e-9, atol=1e-9) if controlled else None
        draw = functools.partial(
            flow.sample, field, EMPTY, solver=diffrax.Tsit5(), steps=100, stepsize_controller=controller
        )
        np.testing.assert_allclose(
            jax.jit(jax.vmap(draw))(noise), carried(mean, covariance, 1.0, noise), atol=budget("gaussian_flow")
        )

    def test_trajectory_of_a_gaussian(self, budget):
        mean, covariance, field = random_gaussian(2)
        noise, times = np.random.default_rng(7).normal(size=2), np.array([0.0, 0.25, 0.5, 1.0])
        path = flow.trajectory(field, EMPTY, noise, times, solver=diffrax.Tsit5(), steps=40)
        expected = [carried(mean, covariance, t, noise) for t in times]
        np.testing.assert_allclose(path, expected, atol=budget("gaussian_flow"))
        np.testing.assert_allclose(
            path[-1], flow.sample(field, EMPTY, noise, solver=diffrax.Tsit5(), steps=40), atol=1e-12
        )

    def slope(self, adjoint, **options):
        def end(weight):
            return flow.sample(Pendulum(weight), STATE, NOISE, adjoint=adjoint, **options).sum()

        derivative = jax.jacfwd if isinstance(adjoint, diffrax.ForwardMode) else jax.grad
        return float(jax.jit(derivative(end))(jnp.asarray(2.0)))

    def test_gradients_do_not_depend_on_the_adjoint(self, budget):
        ends = jax.jit(lambda weight: flow.sample(Pendulum(weight), STATE, NOISE).sum())
        by_differences = (ends(2 + 1e-5) - ends(2 - 1e-5)) / 2e-5
        default = self.slope(None)
        assert default == pytest.approx(float(by_differences), rel=budget("gradient_by_differences"))
        for adjoint in (diffrax.DirectAdjoint(), diffrax.ForwardMode()):
            assert self.slope(adjoint) == pytest.approx(default, rel=budget("closed_form"))

    @pytest.mark.slow
    def test_backsolve_agrees_where_the_steps_are_fine(self, budget):
        fine = {"solver": diffrax.Midpoint(), "steps": 400}
        recursive = self.slope(diffrax.RecursiveCheckpointAdjoint(), **fine)
        assert self.slope(diffrax.BacksolveAdjoint(), **fine) == pytest.approx(recursive, rel=budget("backsolve"))

    def test_bad_input(self, refused, unhooked):
        field = VelocityField(0, 2, 8, 1, key=jr.key(0))
        refused(flow.sample, field, EMPTY, np.zeros(3), match=r"flow.sample \(noise\) takes one point of shape \(2,\)")
        refused(flow.sample, field, EMPTY, np.zeros((5, 2)), match="Use jax.vmap for several points")
        refused(lambda: flow.sample(field, EMPTY, np.zeros(2), steps=0), match="at least one step; got 0")
        for until in (-0.1, 1.5, np.nan):
            sentence = rf"flow.sample \(until\) takes a time t in \[0, 1\]; got {until}\."
            refused(lambda until=until: flow.sample(field, EMPTY, np.zeros(2), until=until), match=sentence)
        falling, sentence = np.array([0.0, 0.5, 0.2]), r"flow.trajectory takes times that do not fall"
        refused(flow.trajectory, field, EMPTY, np.zeros(2), falling, match=rf"^{sentence}; got 0\.2 after 0\.5\.$")
        refused(flow.trajectory, field, EMPTY, jnp.zeros(2), jnp.asarray(falling), match=sentence, jit=True)
        for bad in (-0.1, 1.2, np.nan):
            times = jnp.array([0.5, bad])
            refused(
                flow.trajectory, field, EMPTY, jnp.zeros(2), times, match=r"flow.trajectory takes a time t in \[0, 1\]"
            )
            refused(flow.trajectory, field, EMPTY, jnp.zeros(2), times, match="takes a time t in", jit=True)
        refused(flow.trajectory, field, EMPTY, np.zeros(2), np.array(0.5), match=r"takes times of shape \(n,\)")


class TestLogProb:
    @pytest.mark.parametrize("dim", [1, 2, 5])
    def test_of_a_gaussian(self, dim, budget):
        """E4 with the exact velocity against SciPy."""
        mean, covariance, field = random_gaussian(dim)
        x = np.random.default_rng(8).multivariate_normal(mean, covariance, 50)
        expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
        computed = jax.jit(jax.vmap(lambda a: flow.log_prob(field, EMPTY, a, steps=100)))(x)
        np.testing.assert_allclose(computed, expected, atol=budget("gaussian_log_prob"))

    def test_of_a_mixture_with_a_step_size_controller(self, plain, mixture, budget):
        x = plain.sample(30, np.random.default_rng(9))
        controller = diffrax.PIDController(rtol=1e-8, atol=1e-8)
        field = ExactVelocity(mixture)
        computed = jax.jit(jax.vmap(lambda a: flow.log_prob(field, EMPTY, a, stepsize_controller=controller)))(x)
        np.testing.assert_allclose(computed, plain.log_prob(x), atol=budget("gaussian_log_prob"))

    @pytest.mark.slow
    def test_is_the_change_of_variables(self, budget):
        """log N(z) - log |det dx/dz| at the end of a nonlinear flow that has an observation."""
        fine = {"solver": diffrax.Midpoint(), "steps": 1000}
        end = flow.sample(PENDULUM, STATE, NOISE, **fine)
        jacobian = jax.jit(jax.jacrev(lambda z: flow.sample(PENDULUM, STATE, z, **fine)))(jnp.asarray(NOISE))
        expected = scipy.stats.norm.logpdf(NOISE).sum() - np.linalg.slogdet(jacobian)[1]
        assert float(flow.log_prob(PENDULUM, STATE, end, **fine)) == pytest.approx(
            expected, abs=budget("gaussian_log_prob")
        )

    def hutchinson(self, field, x, probes, n=400):
        options = {"divergence": "hutchinson", "probes": probes, "solver": diffrax.Euler()}
        one = jax.vmap(lambda key: flow.log_prob(field, EMPTY, x, key=key, **options))
        return np.asarray(jax.jit(one)(jr.split(jr.key(9), n)))

    def test_hutchinson_is_unbiased(self, mixture, budget):
        field, x = ExactVelocity(mixture), jnp.array([0.3, -0.4])
        exact = float(
            flow.log_prob(field, EMPTY, x, solver=diffrax.Euler())
        )  # the same steps: only the trace is random
        one, eight = self.hutchinson(field, x, 1), self.hutchinson(field, x, 8)
        for estimates in (one, eight):
            assert np.ptp(estimates) > 1e-3
            error = estimates.std(ddof=1) / np.sqrt(estimates.size)
            assert abs(estimates.mean() - exact) < budget("hutchinson") * error
        assert one.var() / eight.var() == pytest.approx(8, rel=0.3)

    def test_hutchinson_is_exact_in_one_dimension(self):
        """Where a sign squared is the identity."""
        _, _, field = random_gaussian(1)
        x = jnp.array([0.1])
        guess = flow.log_prob(field, EMPTY, x, divergence="hutchinson", key=jr.key(0))
        assert float(guess) == pytest.approx(float(flow.log_prob(field, EMPTY, x)), abs=1e-12)

    @pytest.mark.parametrize("function", [flow.log_prob, flow.sample_and_log_prob, flow.sample])
    def test_ten_calls_compile_once(self, function):
        """Outside jit too, whatever the point and the weights."""
        from fdbook.bench.timing import compilations

        def call(seed):
            field = VelocityField(3, 2, 8, 1, key=jr.key(seed))
            return function(field, jnp.full(3, 0.1 * seed), jnp.full(2, 0.01 * seed))

        jax.block_until_ready([call(0), call(1)])
        with compilations() as found:
            jax.block_until_ready([call(seed) for seed in range(2, 12)])
        assert found == []

    @pytest.mark.slow
    def test_its_hessian_is_the_precision(self, budget):
        mean, covariance, field = random_gaussian(2)
        options = {"adjoint": diffrax.DirectAdjoint(), "steps": 50}
        hessian = jax.jit(jax.hessian(lambda a: flow.log_prob(field, EMPTY, a, **options)))(jnp.asarray(mean + 0.1))
        wanted = -np.linalg.inv(covariance)
        np.testing.assert_allclose(hessian, wanted, atol=budget("gaussian_log_prob") * np.max(np.abs(wanted)))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("function", "derivative"),
        [(flow.log_prob, jax.hessian), (flow.log_prob, jax.jacfwd), (flow.sample, jax.jacfwd)],
    )
    def test_forward_derivatives_say_which_adjoint_they_take(self, function, derivative):
        _, _, field = random_gaussian(2)

        def one(point, adjoint=None):
            return jnp.sum(function(field, EMPTY, point, adjoint=adjoint, steps=2))

        sentence = r"^Forward derivatives of a flow, .*jax.hessian, take adjoint=diffrax.DirectAdjoint\(\); got none\."
        for transform in (lambda made: made, jax.jit):
            with pytest.raises(TypeError, match=sentence):
                transform(derivative(one))(jnp.ones(2))
        found = derivative(lambda point: one(point, diffrax.DirectAdjoint()))(jnp.ones(2))
        step = 1e-5 * jnp.eye(2)
        below = jax.grad(one) if derivative is jax.hessian else one
        differences = jnp.stack([(below(1 + row) - below(1 - row)) / 2e-5 for row in step])
        np.testing.assert_allclose(found, differences, atol=1e-7)

    @pytest.mark.slow
    @pytest.mark.parametrize("function", [flow.log_prob, flow.sample])
    def test_any_adjoint_of_diffrax_gives_the_gradient(self, function):
        """Also the one that solves backwards, which takes no field that is closed over."""
        field = VelocityField(1, 2, 8, 1, key=jr.key(0))
        fine = {"solver": diffrax.Dopri5(), "steps": 100}

        def one(field, adjoint):
            return jnp.sum(function(field, STATE, jnp.ones(2), adjoint=adjoint, **fine))

        made = [eqx.filter_grad(one)(field, adjoint) for adjoint in (None, diffrax.BacksolveAdjoint())]
        for plain, solved in zip(*map(jax.tree.leaves, made), strict=True):
            np.testing.assert_allclose(plain, solved, atol=1e-4)
        assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(made[0])) > 1e-2

    @pytest.mark.slow
    def test_with_a_sample_in_one_solve(self, budget):
        """The density of a sample against SciPy's at the point where it came out, and against the solve backwards."""
        mean, covariance, field = random_gaussian(3)
        noise = jnp.asarray(np.random.default_rng(11).normal(size=3))
        action, found = flow.sample_and_log_prob(field, EMPTY, noise, steps=100)
        expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(np.asarray(action))
        assert float(found) == pytest.approx(expected, abs=budget("gaussian_log_prob"))
        end = flow.sample(field, EMPTY, noise, solver=diffrax.Tsit5(), steps=100)
        np.testing.assert_allclose(action, end, rtol=1e-12)
        backwards = flow.log_prob(field, EMPTY, action, steps=100)
        assert float(found) == pytest.approx(float(backwards), abs=budget("gaussian_log_prob"))
        with pytest.raises(ValueError, match=r"^flow.sample_and_log_prob takes divergence 'exact' or 'hutchinson'"):
            flow.sample_and_log_prob(field, EMPTY, noise, divergence="none")

    def test_bad_input(self, refused, unhooked):
        field, x = VelocityField(0, 2, 8, 1, key=jr.key(0)), np.zeros(2)
        refused(
            lambda: flow.log_prob(field, EMPTY, x, divergence="exakt"), match="'exact' or 'hutchinson'; got 'exakt'"
        )
        refused(
            lambda: flow.log_prob(field, EMPTY, x, divergence="hutchinson"), match="takes a key and at least one probe"
        )
        refused(
            lambda: flow.log_prob(field, EMPTY, x, divergence="hutchinson", key=jr.key(0), probes=0),
            match="takes a key and at least one probe",
        )
        refused(lambda: flow.log_prob(field, EMPTY, x, steps=0), match="at least one step; got 0")
        refused(
            flow.log_prob, field, EMPTY, np.zeros(3), match=r"flow.log_prob \(action\) takes one point of shape \(2,\)"
        )

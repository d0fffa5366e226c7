"""Worked solutions of chapter 14, and typical mistakes with a piece of what the checker says about them."""

import numpy as np


def steps_until(share, logged):
    # n / (logged + n) = share
    return share * logged / (1 - share)


def hours(petaflop, teraflops, share):
    return 1000 * petaflop / (teraflops * share) / 3600


def became_reliable(successes):
    # The likelihood of the whole sequence for every place of the change; chances of 30% before it and 95% after it.
    successes = np.asarray(successes, bool)
    before = np.where(successes, np.log(0.3), np.log(0.7))
    after = np.where(successes, np.log(0.95), np.log(0.05))
    earlier = np.concatenate([[0], np.cumsum(before)])
    later = np.concatenate([np.cumsum(after[::-1])[::-1], [0]])
    return int(np.argmax(earlier + later))


answers = {"14.1": steps_until, "14.2": hours, "14.3": became_reliable, "14.4": {"a", "c", "e", "f"}}


def _first_success(successes):
    return int(np.argmax(successes))


def _last_failure(successes):
    return int(np.flatnonzero(~np.asarray(successes))[-1]) + 1


def _always_the_middle(successes):
    return len(successes) / 2


def _three_in_a_row(successes):
    streaks = np.convolve(np.asarray(successes, int), np.ones(3, int), "valid") == 3
    return int(np.argmax(streaks))


mistakes = {
    "14.1": [
        (lambda share, logged: share * logged, "the buffer grows with the steps"),
        (lambda share, logged: logged / (1 - share), "how many transitions there are in all"),
        (lambda share, logged: (1 - share) / share * logged, "where the logged ones have this share"),
        (lambda share, logged: 2 * share * logged / (1 - share), "was asked for"),
    ],
    "14.2": [
        (lambda p, t, share: p / (t * share) / 3600, "a PFLOP is a thousand TFLOP"),
        (lambda p, t, share: 1000 * p / (t * share), "those are seconds"),
        (lambda p, t, share: 1000 * p / t / 3600, "only a share of it is reached"),
        (lambda p, t, share: 1000 * p * share / t / 3600, "takes longer, not shorter"),
    ],
    "14.3": [
        (_first_success, "it is too hasty"),
        (_last_failure, "it is too strict"),
        (_always_the_middle, "it leans neither way"),
        (_three_in_a_row, "it is too hasty"),
        (lambda successes: -1.0, "from 0 to 60"),
    ],
    "14.4": [
        ({"a", "b"}, "b is not borne out: the first and the last"),
        ({"a", "d"}, "d is not borne out: no run here began without"),
        ({"a"}, "3 more of the statements"),
        ({"z"}, "there is no statement 'z'"),
        ("a", "a set of letters"),
    ],
}

"""The race of a confirmation: who gets another seed, and what is said of the differences."""

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from harness.search.race import Noise, Role, Runner, choose, difference, noise, standing, stay

SEEDS = list(range(1, 9))


def runners(scores: np.ndarray, **roles: int) -> list[Runner]:
    """One for each row, with the score of each seed from 1 on.

    Args:
        roles: the rows of the start point and of the baseline.
    """
    role_of: dict[int, Role] = {place: "start" if role == "start" else "baseline" for role, place in roles.items()}
    return [
        Runner(dict(enumerate(row.tolist(), 1)), role_of.get(place, "candidate"))
        for place, row in enumerate(np.atleast_2d(scores))
    ]


def drawn(means: list[float], seeds: int, seed: int = 0, spread: float = 0.02) -> np.ndarray:
    """Scores with an effect of the seed that all have in common, and noise of each run."""
    rng = np.random.default_rng(seed)
    return np.array(means)[:, None] + rng.normal(0, 0.05, seeds) + rng.normal(0, spread, (len(means), seeds))


def test_the_noise_of_two_is_that_of_the_paired_t_test() -> None:
    scores = drawn([0.5, 0.52], 6)
    of = noise(runners(scores))
    test = ttest_rel(scores[1], scores[0])
    interval = test.confidence_interval(0.95)
    found = difference(*reversed(runners(scores)), of)
    assert of.freedom == test.df == 5
    assert (found.mean - found.reach, found.mean + found.reach) == pytest.approx((interval.low, interval.high))


def test_the_noise_of_many_is_their_common_residual_and_luck_of_a_seed_is_none() -> None:
    scores = drawn([0.5, 0.52, 0.4, 0.6], 5)
    residual = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    of = noise(runners(scores))
    assert of == pytest.approx((np.sqrt((residual**2).sum() / 12), 12))
    assert noise(runners(scores + 10 * np.arange(5))) == pytest.approx(of)


def test_one_that_left_early_counts_as_far_as_it_got() -> None:
    scores = drawn([0.5, 0.52, 0.4], 6)
    some = runners(scores)
    some[2] = Runner(some[2].known([1, 2]))
    assert noise(some).freedom == 14 - (3 + 6 - 1)
    assert difference(some[0], some[2], noise(some)).seeds == 2


@pytest.mark.parametrize("scores", [[[0.5], [0.6]], [[0.5, 0.6, 0.7]], np.empty((2, 0))])
def test_from_too_little_nothing_is_told(scores: list[list[float]]) -> None:
    some = runners(np.array(scores))
    assert noise(some).freedom == 0
    assert difference(some[0], some[-1], noise(some)).verdict == "not decided"


@pytest.mark.parametrize(("mean", "verdict"), [(0.021, "better"), (-0.021, "worse"), (0.019, "not decided")])
def test_the_word_follows_from_the_interval(mean: float, verdict: str) -> None:
    of = Noise(0.01 / np.sqrt(2 / 4) / float(t.ppf(0.975, 9)) * 2, 9)
    assert of.reach(4) == pytest.approx(0.02)
    one, other = runners(np.array([[0.5 + mean] * 4, [0.5] * 4]))
    assert difference(one, other, of).verdict == verdict


def test_a_lost_seed_is_a_gap_and_no_lower_score() -> None:
    one, other = Runner({1: 0.5, 2: None, 3: 0.7}), Runner({1: 0.4, 2: 0.9, 3: 0.6})
    found = difference(one, other, Noise(0.01, 5))
    assert (found.mean, found.seeds) == (pytest.approx(0.1), 2)


def test_all_get_the_fewest_seeds_and_then_only_who_can_still_be_first() -> None:
    scores = drawn([0.60, 0.60, 0.40], 8)
    known: list[dict[int, float | None]] = [{}, {}, {}]
    counts = []
    while not (now := standing([Runner(one) for one in known], SEEDS, 3)).decided:
        counts.append((now.seeds, sorted(now.inside)))
        for place in now.inside:
            known[place] |= {seed: scores[place, seed - 1] for seed in SEEDS[: now.seeds]}
    assert counts[0] == (3, [0, 1, 2])
    assert all(inside == [0, 1] for _, inside in counts[1:])
    assert [len(one) for one in known] == [now.seeds, now.seeds, 3]
    assert scores[now.inside[0], : now.seeds].mean() == scores[:2, : now.seeds].mean(1).max()


def test_a_round_is_not_judged_before_its_last_run_has_ended_and_never_again() -> None:
    scores = drawn([0.60, 0.60, 0.40], 8)
    some = runners(scores)
    waiting = [Runner(one.known([1, 2, 3])) for one in some]
    waiting[1] = Runner(waiting[1].known([1, 2]))
    assert standing(waiting, SEEDS, 3) == ([0, 1, 2], 3, False)
    back = Runner(some[2].known([1, 2, 3]) | dict.fromkeys(SEEDS[3:], 0.99))
    assert 2 not in standing([*some[:2], back], SEEDS, 3).inside, "what came after it had left does not count"


def test_the_baseline_stays_until_its_difference_is_decided() -> None:
    scores = np.array([[0.60, 0.62, 0.61], [0.55, 0.57, 0.63], [0.59, 0.60, 0.63]])
    assert 1 not in stay(runners(scores), [0, 1, 2], [1, 2, 3], most=4)
    assert 1 in stay(runners(scores, baseline=1), [0, 1, 2], [1, 2, 3], most=4)
    scores[1] -= 0.2
    assert 1 not in stay(runners(scores, baseline=1), [0, 1, 2], [1, 2, 3], most=4)


def test_who_cannot_beat_the_start_point_any_more_goes_home() -> None:
    scores = drawn([0.602, 0.60], 7, spread=0.01)
    scores[0] += 0.602 - 0.6 - (scores[0] - scores[1]).mean()
    assert stay(runners(scores), [0, 1], SEEDS[:7], most=8) == [0, 1]
    assert stay(runners(scores, start=1), [0, 1], SEEDS[:7], most=8) == [1], "a lead that is too small in the end"
    assert stay(runners(scores, start=1), [0, 1], SEEDS[:3], most=8) == [0, 1], "all is open yet"


def test_a_start_point_goes_home_when_it_will_be_beaten() -> None:
    scores = drawn([0.65, 0.60, 0.65], 5, spread=0.005)
    assert stay(runners(scores, start=1), [0, 1, 2], SEEDS[:5], most=8) == [0, 2]


def test_one_alone_is_compared_with_the_baseline_by_their_pairs() -> None:
    scores = drawn([0.5, 0.3], 4, spread=0.01)
    some = runners(scores, baseline=1)
    found = difference(*some, noise(some))
    interval = ttest_rel(scores[0], scores[1]).confidence_interval(0.95)
    assert (found.mean - found.reach, found.mean + found.reach) == pytest.approx((interval.low, interval.high))
    assert found.verdict == "better"
    assert standing(some, SEEDS, 4).decided


def test_the_baseline_says_nothing_of_the_noise_of_others() -> None:
    scores = drawn([0.5, 0.52, 0.4, 0.6], 5)
    wild = scores.copy()
    wild[2] = np.linspace(0, 1, 5)
    assert noise(runners(wild, baseline=2)) == noise(runners(scores, baseline=2)) == noise(runners(scores[[0, 1, 3]]))


def test_one_that_fails_by_its_own_fault_is_out_and_without_anyone_the_race_is_over() -> None:
    some = [Runner({1: 0.9}, failed=True), Runner({})]
    assert standing(some, SEEDS, 3) == ([1], 3, False)
    assert standing([some[0]], SEEDS, 3).decided


def test_where_seeds_have_run_out_the_best_mean_comes_first() -> None:
    scores = np.full((2, 8), 0.5)
    scores[1] += np.linspace(-0.1, 0.101, 8)
    found = standing(runners(scores), SEEDS, 8)
    assert (found.inside[0], found.seeds, found.decided) == (1, 8, True)


@pytest.mark.parametrize(("lead", "place"), [(0.05, 0), (0.0001, 1)])
def test_the_start_point_is_what_to_train_with_unless_it_is_beaten(lead: float, place: int) -> None:
    scores = drawn([0.5, 0.5], 8, spread=0.001)
    scores[0] = scores[1] + lead + np.linspace(-0.001, 0.001, 8)
    assert choose(runners(scores, start=1), [0, 1]) == place
    assert choose(runners(scores), [0, 1]) == 0
    assert choose(runners(scores, start=1), [0]) == 0, "it was beaten when it left"


def test_the_race_finds_the_winner_of_eight_seeds_in_95_of_100_with_less_than_60_of_100_runs() -> None:
    same, used, races = 0, 0, 150
    for number in range(races):
        rng = np.random.default_rng(number)
        scores = drawn([*(0.6 + rng.normal(0, 0.015, 4)), 0.57, 0.52], 8, number)
        known: list[dict[int, float | None]] = [{} for _ in scores]
        while not (now := standing([Runner(one) for one in known], SEEDS, 3)).decided:
            for place in now.inside:
                known[place] |= {seed: scores[place, seed - 1] for seed in SEEDS[: now.seeds]}
        same += now.inside[0] == int(scores.mean(1).argmax())
        used += sum(map(len, known))
    assert same / races >= 0.95
    assert used / races / scores.size <= 0.6

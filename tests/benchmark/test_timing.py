import gc
import itertools

import pytest

from optimum_ane.benchmark.timing import Settings, summarize, time_bursts, time_paused, times_as_fast
from optimum_ane.errors import InputError


class Watch:
    """A clock that only predictions move, and a list of which ran when."""

    def __init__(self):
        self.now, self.ran = 0.0, []

    def __call__(self):
        return self.now

    def prediction(self, name, seconds):
        seconds = itertools.cycle(seconds)

        def run():
            self.ran.append(name)
            self.now += next(seconds)

        return run

    def sleep(self, seconds):
        self.ran.append(seconds)
        self.now += seconds


def test_percentiles_are_those_computed_by_hand():
    # 1 … 101 ms in any order: the p-th percentile is the (p + 1)-th number.
    seconds = [n / 1e3 for n in range(101, 0, -1)]
    summary = summarize([seconds])
    assert summary.count == 101
    assert summary.median_ms == pytest.approx(51)
    assert summary.p90_ms == pytest.approx(91)
    assert summary.p99_ms == pytest.approx(100)
    assert summary.min_ms == pytest.approx(1)
    assert summary.mean_ms == pytest.approx(51)
    assert summary.spread == pytest.approx((76 - 26) / 51)


def test_percentiles_between_two_measurements_are_interpolated():
    summary = summarize([[0.010, 0.020], [0.030, 0.040]])
    assert summary.median_ms == pytest.approx(25)
    assert summary.p90_ms == pytest.approx(37)  # 0.9 of the way along 10, 20, 30, 40
    assert summary.spread == pytest.approx((32.5 - 17.5) / 25)
    assert summary.drift == pytest.approx(35 / 15 - 1)


@pytest.mark.parametrize(
    ("blocks", "is_noisy"),
    [
        ([[0.100, 0.101, 0.099]] * 3, False),
        ([[0.100, 0.130, 0.080, 0.115]] * 3, True),  # restless within each round
        ([[0.100] * 20, [0.100] * 20, [0.115] * 2], True),  # slower and slower, quartiles aside
        ([[0.100] * 20, [0.100] * 20, [0.085] * 2], True),
    ],
)
def test_a_run_is_noisy_when_it_spreads_or_drifts(blocks, is_noisy):
    assert summarize(blocks).is_noisy is is_noisy


def test_models_take_turns_in_blocks_and_each_round_starts_with_another():
    watch = Watch()
    predictions = {name: watch.prediction(name, [0.001]) for name in "abc"}
    times = time_bursts(predictions, Settings(iterations=5, warmup=1, rounds=2), clock=watch)
    first, second = ["a"] * 4 + ["b"] * 4 + ["c"] * 4, ["b"] * 3 + ["c"] * 3 + ["a"] * 3
    assert watch.ran == first + second
    assert {name: [len(block) for block in blocks] for name, blocks in times.items()} == {
        name: [3, 2] for name in "abc"
    }


def test_predictions_that_warm_up_do_not_count():
    watch = Watch()
    run = watch.prediction("a", [9.0, 9.0, 0.001, 0.002])
    times = time_bursts({"a": run}, Settings(iterations=4, warmup=2, rounds=2), clock=watch)
    assert times["a"] == [pytest.approx([0.001, 0.002])] * 2


def test_each_prediction_of_the_second_run_follows_a_rest_that_does_not_count():
    watch = Watch()
    predictions = {name: watch.prediction(name, [0.003]) for name in "ab"}
    settings = Settings(pause=0.25, paused_iterations=2)
    times = time_paused(predictions, settings, clock=watch, sleep=watch.sleep)
    assert watch.ran == [0.25, "a", 0.25, "b", 0.25, "b", 0.25, "a"]
    assert times == {name: [pytest.approx([0.003])] * 2 for name in "ab"}


def test_a_ratio_is_taken_within_rounds_so_that_a_slow_round_cancels_out():
    ours, theirs = [[0.001], [0.010], [0.001]], [[0.002], [0.020], [0.002]]
    assert times_as_fast(ours, theirs) == pytest.approx(2)
    # The medians over all rounds would say 3 here, where two of three rounds say 2.
    assert times_as_fast([[0.001], [0.004], [0.001]], [[0.002], [0.008], [0.003]]) == pytest.approx(2)


def test_the_collector_of_garbage_rests_while_the_clock_runs_and_works_again_afterwards():
    states = []
    time_bursts({"a": lambda: states.append(gc.isenabled())}, Settings(iterations=2, warmup=1, rounds=1))
    assert states == [True, False, False]
    assert gc.isenabled()


@pytest.mark.parametrize(("iterations", "sizes"), [(1, [1]), (3, [1, 1, 1]), (12, [3, 3, 2, 2, 2])])
def test_iterations_are_dealt_out_over_the_rounds(iterations, sizes):
    assert Settings(iterations=iterations).block_sizes() == sizes


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"warmup": -1}, {"pause": -0.1}, {"pause": float("nan")}])
def test_settings_that_measure_nothing_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"{name} is .*; it must be at least"):
        Settings(**wrong)

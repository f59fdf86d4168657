"""Expected times: those of a simulated clock, four times as long at an octave not yet trained."""

import dataclasses
from types import SimpleNamespace

import pytest

from training.gan.schedule import make_stage, stage_ends, training_schedule
from training.run.plan import clipped, stretches
from training.run.time_left import TimeEstimator
from training.state import Progress

CLASSES = 4


class Clock:
    """A clock set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def schedule_of(config):
    """Return what the estimator reads of a method."""
    return SimpleNamespace(
        config=config, stage=lambda p: training_schedule(
            config, CLASSES, p.schedule_nimg, p.first_stage, tuple(p.ended_nimg)),
        stage_ends=lambda p: stage_ends(config, p.first_stage, tuple(p.ended_nimg)))


def drive(estimator, clock, config, seconds_of, until, progress=None, compile_sec=0.0,
          tick_sec=None):
    """Train by the clock from `progress` to `until` nimg: the loop's calls in their order.

    seconds_of: function Stage -> seconds of a step. tick_sec: {whether it saves: seconds}.
    """
    progress = progress or Progress()
    ahead = stretches(config, CLASSES)
    stage_ends_nimg = [end for _, end in stage_ends(config)]
    compiled = set()
    while progress.cur_nimg < until:
        stage = clipped(ahead, progress.cur_nimg)[0][2]
        if stage.name != progress.stage:
            progress.stage = stage.name
            estimator.pause()
        critic = stage.critics[progress.step % len(stage.critics)].name
        if (stage.phase, critic) not in compiled:
            compiled.add((stage.phase, critic))
            estimator.pause()
            clock.now += compile_sec
        clock.now += seconds_of(stage)
        estimator.step(stage)
        progress.step += 1
        progress.cur_nimg += stage.minibatch
        ends_stage = progress.cur_nimg in stage_ends_nimg
        if progress.cur_nimg >= progress.tick_nimg + 1000 * stage.tick_kimg or ends_stage:
            progress.tick, progress.tick_nimg = progress.tick + 1, progress.cur_nimg
            saves = ends_stage or progress.tick == 1 or progress.tick % config.network_ticks == 0
            maintenance_sec = (tick_sec or {}).get(saves, 0.0)
            estimator.pause()
            estimator.remember(tick_record(stage.resolution, seconds_of(stage) / stage.minibatch
                                           * 1000, saves, maintenance_sec, stage.name))
            clock.now += maintenance_sec
    return progress


def tick_record(resolution, sec_per_kimg, saved, maintenance_sec, stage="rgb"):
    """Return the record of a tick in stats.jsonl."""
    return {"stage": stage, "Progress/resolution": resolution, "saved_network": saved,
            "Timing/sec_per_kimg": sec_per_kimg, "Timing/maintenance_sec": maintenance_sec}


@pytest.fixture
def config(tiny_config):
    return tiny_config(variant="2d", rgb_kimg=4.0, hold_kimg=1.0, fade_kimg=1.0, binary_kimg=2.0,
                       classes_kimg=3.0, tick_kimg={4: 0.4}, network_ticks=3)


def quadratic(stage):
    """Return seconds of a step in proportion to the number of pixels."""
    return 1e-3 * stage.resolution ** 2


def test_nothing_is_expected_before_a_measurement(config):
    estimator = TimeEstimator(schedule_of(config), Clock())
    stage = make_stage(config, CLASSES, "rgb", 1.0)
    estimator.step(stage)
    assert estimator.time_left(Progress()) == (None, None)
    assert estimator.sec_per_kimg(stage) is None


def test_a_resolution_not_yet_trained_costs_four_times_as_much(config):
    config = dataclasses.replace(config, resolution=32, rgb_kimg=6.0)
    clock = Clock()
    estimator = TimeEstimator(schedule_of(config), clock)
    progress = drive(estimator, clock, config, quadratic, until=400)
    of_stage, of_run = estimator.time_left(progress)
    begun = clock.now
    drive(estimator, clock, config, quadratic, 6000, progress)
    assert of_stage == pytest.approx(clock.now - begun, rel=0.01)
    drive(estimator, clock, config, quadratic, 11000, progress)
    assert of_run == pytest.approx(clock.now - begun, rel=0.01)


def test_measured_speeds_replace_expected_ones(config):
    """A stage's own speed counts from its first steps on, even if it is not the expected one."""
    clock = Clock()
    estimator = TimeEstimator(schedule_of(config), clock)
    seconds = {"rgb": 1.0, "binary": 3.0, "classes": 5.0}
    progress = drive(estimator, clock, config, lambda s: seconds[s.name], until=4400)
    binary, classes = (make_stage(config, CLASSES, name) for name in ("binary", "classes"))
    assert estimator.sec_per_kimg(binary) == pytest.approx(3.0 / 8 * 1000)
    assert estimator.sec_per_kimg(classes) == pytest.approx(3.0 / 8 * 1000)  # as expected so far
    drive(estimator, clock, config, lambda s: seconds[s.name], 6400, progress)
    assert estimator.sec_per_kimg(classes) == pytest.approx(5.0 / 8 * 1000)
    assert estimator.sec_per_kimg(binary) == pytest.approx(3.0 / 8 * 1000)


def test_drawing_and_evaluating_count_but_not_as_steps(config):
    """Compilations do not count at all."""
    config = dataclasses.replace(config, tick_kimg={4: 0.3})
    clock = Clock()
    estimator = TimeEstimator(schedule_of(config), clock)
    extra = dict(tick_sec={True: 30.0, False: 2.0})
    progress = drive(estimator, clock, config, quadratic, until=2016, compile_sec=7.0, **extra)
    stage = make_stage(config, CLASSES, "rgb", 0.0)
    assert estimator.sec_per_kimg(stage) == pytest.approx(quadratic(stage) / 8 * 1000)
    of_run, begun = estimator.time_left(progress)[1], clock.now
    drive(estimator, clock, config, quadratic, 9000, progress, **extra)
    # Networks are also saved at the end of each stage, which is not expected.
    assert of_run == pytest.approx(clock.now - begun - 3 * 28.0, rel=0.05)


def test_the_speed_is_that_of_the_last_minute(config):
    clock = Clock()
    estimator = TimeEstimator(schedule_of(config), clock)
    progress = drive(estimator, clock, config, lambda s: 10.0, until=480)
    drive(estimator, clock, config, lambda s: 1.0, 990, progress)
    stage = make_stage(config, CLASSES, "rgb", 1.0)
    assert estimator.sec_per_kimg(stage) == pytest.approx(125)
    # The mean of a tick, which includes its compilations, does not replace it.
    estimator.remember({"stage": "rgb", "Progress/resolution": stage.resolution,
                        "Timing/sec_per_kimg": 9e9, "Timing/maintenance_sec": 1.0})
    assert estimator.sec_per_kimg(stage) == pytest.approx(125)


def test_a_resumed_run_remembers(config):
    estimator = TimeEstimator(schedule_of(config), Clock())
    for tick in ((4, 50.0, True, 9.0), (8, 70.0, False, 1.0), (8, 80.0, False, 1.0)):
        estimator.remember(tick_record(*tick))
    assert estimator.sec_per_kimg(make_stage(config, CLASSES, "rgb", 2.0)) == pytest.approx(50)
    progress = Progress(cur_nimg=3600, tick=8, tick_nimg=3600)
    of_stage, _ = estimator.time_left(progress)
    assert of_stage == pytest.approx(
        0.4 * 4 * 80 + (9.0 + 2 * 1.0) / 3)  # at 16x16 now; every third tick saves a network


def test_no_time_is_left_at_the_end(config):
    clock = Clock()
    estimator = TimeEstimator(schedule_of(config), clock)
    progress = drive(estimator, clock, config, lambda s: 1.0, until=9000)
    assert estimator.time_left(progress) == (0.0, 0.0)

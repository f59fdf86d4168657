"""Expected times: exact where turns cost what they should, also for what has not been seen."""

import dataclasses

import pytest

from training.critics import stage_critics
from training.operations import turn_operations
from training.run.plan import clipped, simulate_ticks, stretches
from training.run.time_left import Pace, turn_cost
from training.schedule import make_stage
from training.state import Progress

CLASSES = 4


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def drive(pace, clock, config, seconds_of, until, progress=None, compile_sec=0.0, tick_sec=None):
    """Train by the clock from `progress` until `until` nimg: the loop's calls in their order.

    seconds_of: function Stage -> seconds of a turn. tick_sec: {whether it saves: seconds}.
    """
    progress = progress or Progress()
    ahead = stretches(config, CLASSES)
    ticks = {tick.nimg: tick for tick in simulate_ticks(config, ahead)}
    compiled = set()
    while progress.cur_nimg < until:
        stage = clipped(ahead, progress.cur_nimg)[0][2]
        if stage.name != progress.stage:  # evaluated after a growth
            progress.stage = stage.name
            pace.pause()
            clock.now += (tick_sec or {}).get(True, 0.0)
        critic = stage.critics[progress.step % len(stage.critics)].name
        if (stage.optimizer_phase, critic) not in compiled:
            compiled.add((stage.optimizer_phase, critic))
            pace.compiling()
            clock.now += compile_sec
        clock.now += seconds_of(stage)
        pace.turn(stage)
        progress.step += 1
        progress.cur_nimg += stage.minibatch
        if progress.cur_nimg in ticks:
            tick = ticks[progress.cur_nimg]
            progress.tick, progress.tick_nimg = progress.tick + 1, progress.cur_nimg
            pace.pause(tick.saves_network)
            clock.now += (tick_sec or {}).get(tick.saves_network, 0.0)
    return progress


@pytest.fixture
def config(tiny_config):
    return tiny_config(variant="2d", rgb_kimg=4.0, hold_kimg=1.0, fade_kimg=1.0, binary_kimg=2.0,
                       classes_kimg=3.0, tick_kimg={4: 0.4}, network_ticks=3)


def test_one_turn_counts_both_critics(config):
    stage = make_stage(config, CLASSES, "classes")
    each = [turn_operations(config, critic, stage)
            for critic in stage_critics("2d", "classes", CLASSES, 1.0)]
    assert len(each) == 2 and turn_cost(config, stage) == pytest.approx(8 * sum(each) / 2)


def test_nothing_is_expected_before_a_turn_was_timed(config):
    pace, stage = Pace(config, CLASSES, Clock()), make_stage(config, CLASSES, "rgb", 1.0)
    pace.turn(stage)
    assert pace.left(Progress()) == (None, None) and pace.sec_per_kimg(stage) is None


def test_unseen_stretches_are_priced_by_their_operations(config):
    """From the first stretch alone: a turn's time is proportional here."""
    clock = Clock()
    pace = Pace(config, CLASSES, clock)
    progress = drive(pace, clock, config, lambda s: 1e-6 * turn_cost(config, s), until=400)
    of_stage, of_run = pace.left(progress)
    begun = clock.now
    drive(pace, clock, config, lambda s: 1e-6 * turn_cost(config, s), 4000, progress)
    assert of_stage == pytest.approx(clock.now - begun, rel=0.01)
    drive(pace, clock, config, lambda s: 1e-6 * turn_cost(config, s), 9000, progress)
    assert of_run == pytest.approx(clock.now - begun, rel=0.01)
    assert of_run > 2 * (9000 - 400) / 400 * 400 / 8 * 1e-6 * turn_cost(
        config, make_stage(config, CLASSES, "rgb", 1.0))  # the last turns are dearer by far


def test_a_cost_of_every_turn_shows_from_the_second_stretch_on(config):
    config = dataclasses.replace(config, resolution=32, rgb_kimg=6.0)  # the dearest is yet unseen
    clock = Clock()
    pace = Pace(config, CLASSES, clock)
    def seconds_of(stage):
        return 0.5 + 1e-7 * turn_cost(config, stage)

    progress = drive(pace, clock, config, seconds_of, until=1200)
    of_run, begun = pace.left(progress)[1], clock.now
    drive(pace, clock, config, seconds_of, 11000, progress)
    assert of_run == pytest.approx(clock.now - begun, rel=0.01)


def test_compiling_drawing_and_evaluating_count_but_not_as_turns(config):
    config = dataclasses.replace(config, tick_kimg={4: 0.3})  # no tick where a stretch begins
    clock = Clock()
    pace = Pace(config, CLASSES, clock)
    def seconds_of(stage):
        return 1e-7 * turn_cost(config, stage)

    extra = dict(compile_sec=7.0, tick_sec={True: 30.0, False: 2.0})
    progress = drive(pace, clock, config, seconds_of, until=2016, **extra)
    stage = make_stage(config, CLASSES, "rgb", 0.0)
    assert pace.sec_per_kimg(stage) == pytest.approx(seconds_of(stage) / 8 * 1000)
    of_run, begun = pace.left(progress)[1], clock.now
    drive(pace, clock, config, seconds_of, 9000, progress, **extra)
    assert of_run == pytest.approx(clock.now - begun, rel=0.02)


def test_the_speed_is_that_of_the_last_minute(config):
    clock = Clock()
    pace = Pace(config, CLASSES, clock)
    progress = drive(pace, clock, config, lambda s: 10.0, until=480)
    drive(pace, clock, config, lambda s: 1.0, 990, progress)
    assert pace.sec_per_kimg(make_stage(config, CLASSES, "rgb", 1.0)) == pytest.approx(125)


def test_a_resumed_run_remembers(config):
    def tick(stage, lod, sec_per_kimg, saved, maintenance):
        return {"stage": stage, "Progress/lod": lod, "Timing/sec_per_kimg": sec_per_kimg,
                "saved_network": saved, "Timing/maintenance_sec": maintenance}

    pace = Pace(config, CLASSES, Clock())
    pace.remember([tick("rgb", 1.0, 50.0, True, 9.0), tick("rgb", 0.5, 70.0, False, 1.0),
                   tick("rgb", 0.0, 80.0, False, 1.0),
                   # The clock was set back in these, which earlier versions wrote.
                   tick("rgb", 0.0, -111188.98, False, 1.0), tick("rgb", 0.0, 80.0, True, -3600.0)])
    assert pace.sec_per_kimg(make_stage(config, CLASSES, "rgb", 0.3)) == pytest.approx(70)
    progress = Progress(cur_nimg=3600, tick=8, tick_nimg=3600)
    of_stage, _ = pace.left(progress)
    assert of_stage == pytest.approx(0.4 * 80 + 9.0)  # tick 9 is a third one: it saves a network


def test_at_the_end_nothing_is_left(config):
    clock = Clock()
    pace = Pace(config, CLASSES, clock)
    progress = drive(pace, clock, config, lambda s: 1.0, until=9000)
    assert pace.left(progress) == (0.0, 0.0)

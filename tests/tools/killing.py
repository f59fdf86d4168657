"""Train while being killed again and again, and compare the end with an undisturbed training.

    python -m tests.tools.killing DIR --variant=cyclegan --kills=25 --seed=0

Makes small data in DIR and trains a variant on it in miniature, once undisturbed and then with
SIGKILLs: half of them after some seconds, half at a certain call of a function that writes files
or changes the state. Prints one line of JSON. Every start uses the same command line, in a process
forked from one that has imported TensorFlow but not used it.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

import train
from dnnlib import cli, util
from dnnlib.data import pictures
from tests.tools.data_helpers import read_jsonl, tagged_and_untagged
from training import single_stage, snapshots, state, stylegan, training_loop
from training.cycle import cyclegan
from training.gan import gan_step, inspection
from training.run import files, grids, history
from training.variants import CONFIGS

# The 2d variant: resolution change, fade and both channel growths within 18 steps; the schedule is
# read every two steps.
GROWING = [
    "--variant=2d", "--device=cpu", "--resolution=8", "--initial-resolution=4", "--fmap-base=64",
    "--fmap-max=8", "--latent-size=8", "--mapping-layers=1", "--no-blur", "--hold-kimg=0.016",
    "--fade-kimg=0.048", "--rgb-kimg=0.096", "--binary-kimg=0.016", "--classes-kimg=0.032",
    "--minibatch=8", "--tick-kimg=0.016", "--minibatch-repeats=2", "--smoothing-kimg=0.1",
    "--network-ticks=2", "--metrics=none", "--seed=3"]
LONGER = ["--kimg=0.096", "--minibatch-repeats=2", "--image-ticks=1"]  # twelve ticks


def command(variant, root):
    """Make the data of a variant's miniature in a folder; return the options of train.py."""
    # Starts TensorFlow, so call it in a process of its own.
    from tests.tools.miniatures import METHODS, STYLEGANS

    if variant == "2d":
        tagged, untagged = tagged_and_untagged(root, 8, 12)
        return [*GROWING, f"--data={tagged}", f"--untagged={untagged}"]
    miniature = METHODS[variant]
    return [f"--variant={variant}", *miniature.make(root), *miniature.options,
            *([] if variant in STYLEGANS else LONGER)]


def in_a_process(function, *args):
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *args).result()


def live(argv, output, die_at=None):
    """Fork a process that trains; return its id. It kills itself at call number `die_at`."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 1
    try:
        if die_at:
            count_down(die_at)
        status = cli.exit_status(train.main, argv)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        os._exit(status)


def count_down(calls):
    """SIGKILL this process at that call, before or after it does its work."""
    left = [calls]

    def counted(function):
        def call(*args, **kwargs):
            tick()
            result = function(*args, **kwargs)
            tick()
            return result

        def tick():
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return call

    places = [(os, "replace"), (os, "fsync"), (os, "truncate"), (Path, "write_bytes"),
              (Path, "unlink"), (util, "append_jsonl"), (util, "write_json"),
              (pictures, "save_png"), (training_loop.Training, "_evaluate"),
              (files.RunFiles, "tick"), (files.RunFiles, "growth"), (files.RunFiles, "clear"),
              (files, "save_state"), (files, "save_snapshot"), (files.RunFiles, "save_best"),
              (files.RunFiles, "finish"),
              (gan_step.GanStep, "__call__"), (state.Adam, "reset"), (stylegan, "enter_stage"),
              (grids.Grids, "draw"),
              (single_stage.SingleStageMethod, "step"),
              (single_stage.SingleStageMethod, "resume"),
              (single_stage.SingleStageMethod, "scores"),
              (single_stage.SingleStageMethod, "save_grid"),
              (cyclegan.CycleTraining, "buffers")]
    for owner, name in places:
        setattr(owner, name, counted(getattr(owner, name)))


def wait(pid):
    """Return how the process ended: its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid, seconds):
    """SIGKILL a process unless it ends first; return how it ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def prove(root, variant, kills, seed):
    """Train undisturbed, then with that many kills; return a dict of what happened.

    A run that finishes before that is compared too, and another one is started.
    """
    root.mkdir(parents=True, exist_ok=True)
    common = in_a_process(command, variant, root)
    began = time.monotonic()
    status = wait(live([*common, f"--run={root / 'whole'}"], root / "whole.txt"))
    if status:
        raise RuntimeError(f"status {status}: {(root / 'whole.txt').read_text()[-3000:]}")
    reference, whole_sec = outcome(root / "whole"), time.monotonic() - began
    rng, argv = np.random.default_rng(seed), [*common, f"--run={root / 'killed'}"]
    output, killed, at, compared = root / "killed.txt", 0, [], []
    while killed < kills or (root / "killed").is_dir():
        if killed == kills:
            status = wait(live(argv, output))
        elif rng.random() < 0.5:
            # Half of the calls are among the first 14, some of which every start makes once.
            status = wait(live(argv, output, die_at=int(200 ** rng.random())))
        else:
            status = kill_after(live(argv, output), rng.uniform(0.0, 0.9 * whole_sec))
        if status == -signal.SIGKILL:
            killed += 1
            at.append(newest_kimg(root / "killed"))
        elif status == 0:
            found = outcome(root / "killed")
            compared.append(sorted(name for name in reference if found[name] != reference[name]))
            os.rename(root / "killed", root / f"killed-{len(compared)}")
        else:
            raise RuntimeError(f"ended with status {status}: {output.read_text()[-3000:]}")
    return {"variant": variant, "kills": killed, "seed": seed, "runs_finished": len(compared),
            "equal": compared.count([]), "differences": [names for names in compared if names],
            "state_kimg_at_kills": at, "whole_sec": round(whole_sec, 1),
            "ticks": [tick["Progress/kimg"] for tick in reference["ticks"]]}


def outcome(run_dir):
    """Return what a finished run leaves, which must not depend on what happened on the way.

    Losses are left out: those of a tick are means over its steps, and a state that was written in
    the middle of the tick, before a compilation, does not have them.
    """
    events, newest = read_jsonl(run_dir / history.STATS), state.list_states(run_dir)[-1]
    by_kind = {kind: [event for event in events if event["event"] == kind]
               for kind in ("begin", "tick", "growth")}
    best = run_dir / history.BEST
    return {
        "networks": snapshots.read_header(run_dir / history.FINAL)["digests"],
        # Optimizers and buffers too.
        "state": (newest.name, snapshots.load_own(newest)[0]["digests"]),
        "best": util.read_json(best) if best.is_file() else None,
        "begins": by_kind["begin"], "growths": by_kind["growth"],
        "ticks": [{name: value for name, value in tick.items()
                   if name in ("stage", "saved_network", "Progress/tick", "Progress/kimg")
                   or name.startswith("Metrics/")} for tick in by_kind["tick"]],
        # Every start has its own events, and the states that it saved before compiling.
        "files": sorted(path.name for path in run_dir.iterdir() if not path.name.startswith(
            ("events.out.", "training-state-")))}


def newest_kimg(run_dir):
    """Return the kimg in the newest state's name; None if there is no state."""
    states = state.list_states(run_dir) if run_dir.is_dir() else []
    return int(states[-1].name[15:24]) / 1000 if states else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--variant", choices=CONFIGS, default="2d")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")
    inspection.CLASS_COUNT_IMAGES = 24
    print(json.dumps(prove(options.root, options.variant, options.kills, options.seed)))

"""A training that is killed again and again, and in the end has the weights of one that was not.

    python -m tests.tools.killing DIR --kills=100 --seed=0

makes a small data set in DIR and trains the 2d variant on it in miniature, once in peace and once
with SIGKILLs: half of them some seconds after the start, half at a certain call of something that
writes files or changes the state. Prints one line of JSON. Every life is the same command line, in
a process forked from one that has imported TensorFlow and not used it.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import tensorflow as tf

import train
from dnnlib import cli, util
from tests.tools.data_helpers import tagged_and_untagged
from training import snapshots, state, stylegan, training_loop
from training.gan import gan_step
from training.run import files, grids, history

# Resolution change, fade and both channel growths within 18 turns; looks of two turns.
MINIATURE = [
    "--variant=2d", "--device=cpu", "--resolution=8", "--initial-resolution=4", "--fmap-base=64",
    "--fmap-max=8", "--latent-size=8", "--mapping-layers=1", "--no-blur", "--hold-kimg=0.016",
    "--fade-kimg=0.048", "--rgb-kimg=0.096", "--binary-kimg=0.016", "--classes-kimg=0.032",
    "--minibatch=8", "--tick-kimg=0.016", "--minibatch-repeats=2", "--smoothing-kimg=0.1",
    "--network-ticks=2", "--metrics=none", "--seed=3"]


def make_data(root):
    """Two data sets at 8x8: with four classes, and photos only; returns the options that name them.
    """
    tagged, untagged = tagged_and_untagged(root, 8, 12)
    return [f"--data={tagged}", f"--untagged={untagged}"]


def live(argv, output, die_at=None):
    """Fork a process that trains; returns its id. It kills itself at the call number `die_at`."""
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
    """SIGKILL this process at such a call, before or behind what it does."""
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
              (gan_step.GanStep, "__call__"), (state.Adam, "reset"), (stylegan, "enter_stage"),
              (training_loop.Training, "_evaluate"), (grids.Grids, "save_fakes"),
              (files.RunFiles, "tick"), (files.RunFiles, "growth"), (files.RunFiles, "clear"),
              (files, "save_state"), (files.RunFiles, "finish")]
    for owner, name in places:
        setattr(owner, name, counted(getattr(owner, name)))


def wait(pid):
    """How the process ended: its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid, seconds):
    """SIGKILL unless it ends before; returns how it ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def prove(root, kills, seed):
    """Train in peace, then killed until there were so many kills; a dict of what happened.

    A run that comes to its end before that is compared too, and another begun.
    """
    root.mkdir(parents=True, exist_ok=True)
    common = [*MINIATURE, *make_data(root)]
    began = time.monotonic()
    status = wait(live([*common, f"--run={root / 'whole'}"], root / "whole.txt"))
    if status:
        raise RuntimeError(f"status {status}: {(root / 'whole.txt').read_text()[-3000:]}")
    reference = digests(root / "whole")
    whole_sec = time.monotonic() - began
    rng, argv = np.random.default_rng(seed), [*common, f"--run={root / 'killed'}"]
    output, killed, at, compared = root / "killed.txt", 0, [], []
    while killed < kills:
        if rng.random() < 0.5:
            pid = live(argv, output, die_at=int(rng.integers(1, 200)))
            status = wait(pid)
        else:
            status = kill_after(live(argv, output), rng.uniform(0.0, 0.6 * whole_sec))
        if status == -signal.SIGKILL:
            killed += 1
            at.append(newest_kimg(root / "killed"))
        elif status == 0:
            compared.append(digests(root / "killed") == reference)
            os.rename(root / "killed", root / f"killed-{len(compared)}")
        else:
            raise RuntimeError(f"ended with status {status}: {output.read_text()[-3000:]}")
    assert wait(live(argv, output)) == 0
    compared.append(digests(root / "killed") == reference)
    return {"kills": killed, "seed": seed, "runs_finished": len(compared),
            "equal": sum(compared), "state_kimg_at_kills": at, "whole_sec": round(whole_sec, 1),
            "left_over": [p.name for p in (root / "killed").glob(".*")],
            "ticks": ticks(root / "killed")}


def digests(run_dir):
    """{network: digest} of the final snapshot."""
    return snapshots.read_header(run_dir / history.FINAL)["digests"]


def newest_kimg(run_dir):
    """kimg of the newest state's name; None without one."""
    states = state.list_states(run_dir) if run_dir.is_dir() else []
    return int(states[-1].name[15:24]) / 1000 if states else None


def ticks(run_dir):
    """kimg of the ticks that stats.jsonl tells."""
    events = [json.loads(line) for line in (run_dir / history.STATS).read_text().splitlines()]
    return [event["Progress/kimg"] for event in events if event["event"] == "tick"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")
    stylegan.CLASS_COUNT_IMAGES = 24
    print(json.dumps(prove(options.root, options.kills, options.seed)))

"""train.py with several workers: real processes on this machine, one of them killed."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import train
from dnnlib.cluster import LOST_STATUS
from dnnlib.data import tfrecords
from dnnlib.tflib.distribute import check_devices, replica_rows
from dnnlib.util import UserError
from tests.conftest import TINY
from tests.dnnlib.test_connection import LEAVE_SEC, free_addresses
from tests.tools.data_helpers import read_jsonl, tagged_and_untagged
from tests.tools.miniatures import METHODS, STYLEGANS
from tests.tools.training_runs import (
    ONE_DEVICE,
    assert_same_buffer,
    assert_same_network,
    begin,
    stop_after,
)
from training.config import TrainingConfig
from training.dataset import TrainingStream
from training.method_config import as_option
from training.run.options import given_options, parse_training_options
from training.snapshots import (
    load_container,
    load_own,
    load_snapshot,
    networks_from_groups,
)
from training.state import list_states

ROOT = Path(__file__).resolve().parents[2]
FINAL = "network-final.safetensors"
# One resolution, six steps, a tick every two steps.
SMALL = {name: value for name, value in {
    **TINY, "variant": "rgb", "resolution": 4, "initial_resolution": 4, "rgb_kimg": 0.048,
    "network_ticks": 100}.items() if name not in ("binary_kimg", "classes_kimg")}
# All stages, growing from 4x4: 20 steps.
WHOLE = {**TINY, "variant": "2d", "initial_resolution": 4, "rgb_kimg": 0.096}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make data sets at 16x16 with and without maps, of sizes that no minibatch divides."""
    return tagged_and_untagged(tmp_path_factory.mktemp("data"), 16, 13)


class Workers:
    """The processes of one command, with their output in <name>.<index> of a folder."""

    def __init__(self, folder, config, name="out", options=((), ())):
        """options: further options of each worker."""
        self.addresses = free_addresses(len(options))
        fields = [as_option(name, ",".join(f"{k}:{v}" for k, v in value.items())
                            if isinstance(value, dict) else value)
                  for name, value in config.items()]
        self.outputs = [folder / f"{name}.{i}" for i in range(len(options))]
        self.processes = []
        for i, more in enumerate(options):
            with open(self.outputs[i], "w") as file:
                self.processes.append(subprocess.Popen(
                    [sys.executable, "train.py", *fields, "--device=cpu",
                     f"--run={folder / 'run'}", f"--workers={','.join(self.addresses)}",
                     f"--worker-index={i}", *more], cwd=ROOT, stdout=file,
                    stderr=subprocess.STDOUT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}))

    def text(self, index):
        return self.outputs[index].read_text()

    def wait_for(self, index, words):
        """Wait until a worker has printed `words`."""
        while words not in self.text(index):
            assert self.processes[index].poll() is None, self.text(index)
            time.sleep(0.05)

    def statuses(self):
        return [process.wait(timeout=600) for process in self.processes]

    def lose(self, gone):
        """Kill a worker; assert that the other exits in time with one line; return its seconds."""
        self.processes[gone].kill()
        began = time.monotonic()
        left = self.processes[1 - gone].wait(timeout=LEAVE_SEC)
        assert left == LOST_STATUS, self.text(1 - gone)
        told = [line for line in self.text(1 - gone).splitlines() if "lost" in line]
        assert told == [f"worker {gone} ({self.addresses[gone]}) is lost; restart all workers with "
                        "the same command to continue"]
        assert "Traceback" not in self.text(1 - gone)
        return time.monotonic() - began


@pytest.fixture
def start():
    """Return a function that starts Workers, which are killed at the end of the test."""
    started = []

    def begin(*args, **options):
        started.append(Workers(*args, **options))
        return started[-1]

    yield begin
    for process in [process for workers in started for process in workers.processes]:
        process.kill()
        process.wait()


def with_data(config, data):
    paths = {"data": str(data[0])}
    return {**config, **paths, **({"untagged": str(data[1])} if config["variant"] == "2d" else {})}


def in_this_process(config, folder, strategy):
    """Train to the end; return the final snapshot's path."""
    assert begin(TrainingConfig(**config), folder, strategy).run() is True
    return folder / FINAL


def pictures(path):
    """Return what a snapshot's Gs draws from some latents, without noise."""
    Gs = load_snapshot(path).networks["Gs"]
    latents = np.random.RandomState(0).randn(8, 8).astype(np.float32)
    return Gs(latents, noise=lambda layer, h, w: tf.zeros([8, h, w, 1])).numpy()


def digests(path):
    return load_snapshot(path).header["digests"]


@pytest.mark.slow
def test_workers_restarted_after_a_kill_equal_one_device(start, data, tmp_path):
    """In the final snapshot."""
    config = with_data(SMALL, data)
    first = start(tmp_path, config, "first")
    first.wait_for(0, "tick 1")
    first.lose(1)
    second = start(tmp_path, config, "second")
    assert second.statuses() == [0, 0], second.text(0) + second.text(1)
    assert "continuing at kimg" in second.text(0) and "continuing at kimg" in second.text(1)
    assert "tick" in second.text(0) and "tick" not in second.text(1)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("\ntick 3 ") == log.count("finished") == 1
    alone = in_this_process(config, tmp_path / "alone", tf.distribute.OneDeviceStrategy("/cpu:0"))
    np.testing.assert_allclose(pictures(tmp_path / "run" / FINAL), pictures(alone), atol=5e-3)


def goes_on(state, until, config, folder):
    """Continue on one device from a training state to the step of another state; return G's
    pictures and D's scores of both, by network."""
    folder.mkdir()
    shutil.copy(state, folder)
    config = TrainingConfig(**config)
    training = begin(config, folder)
    header, groups = load_container(until)
    stop_after(training, header["progress"]["step"])
    training.run()
    return (outputs(training.method.networks),
            outputs(networks_from_groups(header, groups, until)))


def outputs(networks):
    """Return {name: images of a generator, or scores of a critic} for fixed inputs."""
    rng = np.random.RandomState(0)
    latents, images = rng.randn(8, 8), rng.randn(8, 16, 16, 7).astype(np.float32)
    return {name: (network(latents, noise=lambda layer, h, w: tf.zeros([8, h, w, 1]))
                   if name in ("G", "Gs") else network(images[..., :network.num_channels])).numpy()
            for name, network in networks.items()}


@pytest.mark.slow
def test_two_workers_train_all_stages_killed_or_not(start, data, tmp_path):
    """Resolutions, fades, channel growths, two critics: equal digests.

    One device follows them from each tick to the next. (It cannot over the whole run: after a
    growth, the rounding errors of two orders of addition grow fortyfold within two steps.)
    """
    config = with_data(WHOLE, data)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = start(tmp_path / "whole", config, options=(("--keep=99",),) * 2)
    assert whole.statuses() == [0, 0], whole.text(0) + whole.text(1)
    for gone, words in ((1, "tick 2"), (0, "entering stage binary"), (1, "entering stage cl")):
        killed = start(tmp_path / "killed", config, f"before{gone}")
        killed.wait_for(0, words)
        killed.lose(gone)
    assert start(tmp_path / "killed", config).statuses() == [0, 0]
    final = tmp_path / "whole" / "run" / FINAL
    assert digests(tmp_path / "killed" / "run" / FINAL) == digests(final)
    states = list_states(tmp_path / "whole" / "run")
    assert len(states) > 8
    for i, (state, until) in enumerate(itertools.pairwise(states)):
        one, two = goes_on(state, until, config, tmp_path / f"one{i}")
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_allclose(one[name], two[name], rtol=5e-2, atol=5e-2,
                                       err_msg=f"{state.name} {name}")


def last_state(run_dir):
    """Return a run's last training state, (header, {group: arrays}), and its ticks' losses."""
    ticks = [event for event in read_jsonl(run_dir / "stats.jsonl") if event["event"] == "tick"]
    losses = [{name: value for name, value in tick.items() if "Loss/" in name} for tick in ticks]
    return *load_own(list_states(run_dir)[-1]), losses


@pytest.mark.parametrize("variant", [name for name in METHODS if name not in STYLEGANS])
@pytest.mark.slow
def test_two_workers_do_what_one_device_does(variant, start, tmp_path):
    """Two steps of every method except the StyleGANs, which the tests above train: networks with
    their running means, the pool, losses."""
    command = [f"--variant={variant}", *METHODS[variant].make(tmp_path), *METHODS[variant].options,
               "--kimg=0.008"]
    workers = start(tmp_path, {}, options=(command, command))
    options = parse_training_options([*command, f"--run={tmp_path / 'alone'}"])
    job = train.make_job(options, given_options(options), None)
    tf.config.run_functions_eagerly(True)  # two steps take less time than their trace
    try:
        assert train.train(job, ONE_DEVICE) == 0
    finally:
        tf.config.run_functions_eagerly(False)
    assert workers.statuses() == [0, 0], workers.text(0) + workers.text(1)
    header, alone, losses = last_state(tmp_path / "alone")
    other, found, told = last_state(tmp_path / "run")
    assert header["progress"]["step"] == other["progress"]["step"] == 2
    assert alone.keys() == found.keys()
    for name in header["networks"]:
        assert_same_network(alone[name], found[name], name)
    for name in header["buffers"]:
        assert_same_buffer(alone[f"buf_{name}"], found[f"buf_{name}"])
    assert losses and len(losses) == len(told)
    for one, two in zip(losses, told):
        assert one and one == pytest.approx(two, rel=2e-3, abs=1e-5)


@pytest.mark.slow
def test_a_request_to_one_worker_stops_all(start, data, tmp_path):
    config = with_data(SMALL, data)
    workers = start(tmp_path, config)
    workers.wait_for(0, "tick 1")
    workers.processes[1].terminate()
    assert 0 not in workers.statuses()
    assert LOST_STATUS not in workers.statuses()
    assert "stopped at kimg" in workers.text(0) and "stopped at kimg" in workers.text(1)


@pytest.mark.slow
def test_different_options_and_a_lock_end_all_workers(start, data, tmp_path):
    config = with_data(SMALL, data)
    workers = start(tmp_path, config, options=((), ("--seed=9",)))
    assert workers.statuses() == [2, 2]
    for i in range(2):
        assert workers.text(i).splitlines()[-1] == (
            "error: the workers were started differently: seed is 3 at worker 0, 9 at worker 1")


def test_a_worker_has_one_cpu_device():
    with pytest.raises(UserError, match="start more workers"):
        check_devices("cpu", 2, ["a:1", "b:2"])


def test_each_worker_reads_its_own_rows_only(data, monkeypatch):
    read = []
    real = tfrecords.RecordFile.read_many

    def count(file, numbers):
        read.extend(int(n) for n in numbers)
        return real(file, numbers)

    monkeypatch.setattr(tfrecords.RecordFile, "read_many", count)
    options = dict(resolution=8, num_channels=3, minibatch=8, seed=1, start_nimg=8)

    def batches(rows):
        """Return the images of two minibatches, and the numbers of the records read for them."""
        read.clear()
        stream = iter(TrainingStream([data[0]], rows=rows, **options))
        images = [next(stream)[0].numpy() for _ in range(2)]
        stream.close()
        return images, list(read)

    whole = batches(None)[0]
    parts = [replica_rows(8, 2, worker) for worker in range(2)]
    for rows in parts:
        images, numbers = batches(rows)
        assert len(numbers) % len(rows) == 0 and len(numbers) >= 2 * len(rows)
        for part, all_images in zip(images, whole):
            np.testing.assert_array_equal(part, all_images[rows])
    assert sorted(np.concatenate(parts)) == list(range(8))

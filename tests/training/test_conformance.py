"""What every training method must do: two ticks by its command line, a stop, a resume, a page,
uses of its snapshot and a metric, in miniature.

A new --variant needs a line in METHODS of tests/tools/miniatures.py, and nothing here.
"""

import errno
import html
import logging
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import generate
import run_metrics
import train
from dnnlib.util import UserError
from tests.tools.data_helpers import read_jsonl
from tests.tools.miniatures import METHODS, STYLEGANS
from tests.tools.training_runs import ONE_DEVICE, assert_two_devices_do_what_one_does
from training.run import signals
from training.run.options import given_options, parse_training_options
from training.snapshots import load_own, load_snapshot, read_header, save_snapshot
from training.state import list_states
from training.training_loop import Training
from training.variants import CONFIGS

pytestmark = pytest.mark.usefixtures("eagerly")

FINAL = "network-final.safetensors"
FAST = set(METHODS) - {"rgb", "c"}  # stages of 2d


def miniatures():
    """Yield (variant, further options) of everything that is tested, as parameters."""
    for variant, miniature in METHODS.items():
        for more in ("", *miniature.others):
            marks = () if variant in FAST and not more else pytest.mark.slow
            yield pytest.param((variant, more), marks=marks, id=f"{variant} {more}".rstrip())


class Trained(NamedTuple):
    """A finished training: its data, its run directory, and what its Job is made from."""

    variant: str
    data: Path
    run_dir: Path
    command: list[str]

    def job(self, *options):
        """Return the Job of the command with further options."""
        parsed = parse_training_options([*self.command, *options])
        return train.make_job(parsed, given_options(parsed), None)


@pytest.fixture(scope="module", params=miniatures())
def trained(request, tmp_path_factory):
    variant, more = request.param
    folder = tmp_path_factory.mktemp(variant)
    command = [f"--variant={variant}", *METHODS[variant].make(folder), *METHODS[variant].options,
               *more.split()]
    found = Trained(variant, folder, folder / "run", command)
    assert train.train(found.job(f"--run={found.run_dir}"), ONE_DEVICE) == 0
    return found


def test_every_method_is_tested():
    assert METHODS.keys() == CONFIGS.keys()


def test_a_run_of_two_ticks(trained):
    """Its log also names the next commands."""
    events = read_jsonl(trained.run_dir / "stats.jsonl")
    ticks = [event for event in events if event["event"] == "tick"]
    assert [tick["Progress/kimg"] for tick in ticks] == pytest.approx([0.008, 0.016])
    losses = {name: value for tick in ticks for name, value in tick.items() if "Loss/" in name}
    assert losses and np.isfinite(list(losses.values())).all()
    assert f"generate.py --network={trained.run_dir}" in (trained.run_dir / "log.txt").read_text()


def test_its_plan(trained, tmp_path, capsys):
    command = [*trained.command, f"--results={tmp_path}"]
    assert train.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would make a new run" in said and "0.016 kimg" in said
    assert said.endswith("nothing was written\n") and not list(tmp_path.iterdir())
    assert train.main([*command, f"--run={trained.run_dir}", "--dry-run"]) == 0
    assert f"would continue {trained.run_dir}" in capsys.readouterr().out


def test_a_stopped_training_ends_like_an_undisturbed_one(trained, tmp_path, monkeypatch):
    """To the last bit; stopped in the middle of a tick."""
    job, take_step = trained.job(f"--run={tmp_path / 'run'}"), Training._step

    def step_and_stop(training, stage):
        take_step(training, stage)
        if training.progress.step == 3:
            training.request_stop()

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", step_and_stop)
        patch.setattr(signals, "end_if_stuck", lambda status: None)
        assert train.train(job, ONE_DEVICE) == 128 + signal.SIGINT
    assert train.train(job, ONE_DEVICE) == 0
    whole, again = (read_header(path / FINAL) for path in (trained.run_dir, tmp_path / "run"))
    assert again["digests"] == whole["digests"]
    states = [load_own(list_states(path)[-1])[1] for path in (trained.run_dir, tmp_path / "run")]
    for group, arrays in states[0].items():  # optimizers and buffers too
        for name, value in arrays.items():
            np.testing.assert_array_equal(states[1][group][name], value)


def test_a_snapshot_holds_the_networks(trained, tmp_path):
    """Those of the newest training state; after reading and writing again they are the same."""
    snapshot = load_snapshot(trained.run_dir / FINAL)
    _, state = load_own(list_states(trained.run_dir)[-1])
    for name, network in snapshot.networks.items():
        for key, value in network.get_arrays().items():
            np.testing.assert_array_equal(state[name][key], value)
    assert {"digest", "variant", "stage", "classes", "kimg", "lod"} <= snapshot.header.keys()
    assert snapshot.header["variant"] == trained.variant and snapshot.header["kimg"] == 0.016
    again = save_snapshot(tmp_path / "again.safetensors", snapshot.networks, snapshot.header)
    assert again.header["digest"] == snapshot.header["digest"]


def test_its_page(trained):
    """It is finished, and has curves and the method's own words for its pictures."""
    page = (trained.run_dir / "index.html").read_text()
    for name in read_header(trained.run_dir / FINAL)["classes"]:
        assert f"</i>{name}<" in page  # in the legend
    assert "finished" in page and "Losses and scores" in page and "fakes000000.016.png" in page
    assert html.escape(CONFIGS[trained.variant].cells) in page


def of_data(options, trained):
    return options.replace("DATA", str(trained.data)).split()


def test_generate_uses_it(trained, tmp_path):
    out = tmp_path / "out"
    assert generate.main([f"--network={trained.run_dir}", f"--out={out}",
                          *of_data(METHODS[trained.variant].use, trained)]) == 0
    pictures = [np.asarray(Image.open(path)) for path in out.rglob("*.png")]
    assert any(np.ptp(picture) for picture in pictures)


def test_a_damaged_snapshot_of_it_is_one_line(trained, tmp_path, script):
    """One bit flipped, or the end cut off."""
    whole, path = (trained.run_dir / FINAL).read_bytes(), tmp_path / "damaged.safetensors"
    for content in (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], whole[:len(whole) // 2]):
        path.write_bytes(content)
        status, error = script(f"--network={path}", f"--out={tmp_path / 'out'}",
                               *of_data(METHODS[trained.variant].use, trained))
        assert status == 2 and str(path) in error and "damaged" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_metric_of_it(trained, tmp_path):
    options = of_data(METHODS[trained.variant].measure, trained)
    assert run_metrics.main([f"--network={trained.run_dir}", *options]) == 0
    values = [value for path in trained.run_dir.glob("metric-*.jsonl")
              for record in read_jsonl(path) for value in record["results"].values()]
    assert values and np.isfinite(values).all()


def arrays_of(method):
    """Return all that a step may change, {(owner, name): array}, without skipped-update counts."""
    groups = {**{name: network.get_arrays() for name, network in method.networks.items()},
              **{f"opt_{name}": adam.get_arrays() for name, adam in method.optimizers.items()},
              **method.buffers()}
    return {(group, name): value for group, arrays in groups.items()
            for name, value in arrays.items() if name != "skipped_in_a_row"}


def begun(trained, strategy=ONE_DEVICE):
    """Return the method at its start, and its counters."""
    method = trained.job().make_method(strategy, logging.getLogger("conformance"))
    with strategy.scope():
        return method, method.begin()


def test_a_step_with_non_finite_values_is_skipped_entirely(trained):
    """Whichever network has them: running means, optimizers and the pool do not change either."""
    if trained.variant in STYLEGANS:
        pytest.skip("test_gan_step does this, without Gs, which follows whatever G is")
    method, progress = begun(trained)
    stage = method.stage(progress)
    batch = method.next_batch(stage, progress)
    for name in method.optimizers:
        variable = next(iter(method.networks[name].trainables.values()))
        value = variable.numpy()
        variable.assign(np.full_like(value, np.nan))
        before = arrays_of(method)
        report = method.step(batch, stage, 0)
        assert report["Progress/skipped_updates"] >= 1
        for key, array in arrays_of(method).items():
            np.testing.assert_array_equal(array, before[key], err_msg=str(key))
        variable.assign(value)
    assert method.step(batch, stage, 0)["Progress/skipped_updates"] == 0


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state(trained, tmp_path, monkeypatch):
    """The error is one line, and the same options continue once there is room."""
    run_dir, write = tmp_path / "run", Path.write_bytes
    job = trained.job(f"--run={run_dir}")

    def fill_disk(path, content):
        if "training-state-000000016" in path.name:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_disk)
        with pytest.raises(UserError, match=r"the disk is full") as error:
            train.train(job, ONE_DEVICE)
    newest = list_states(run_dir)[-1]
    assert newest.name in str(error.value) and "\n" not in str(error.value)
    assert not list(run_dir.glob(".*.tmp"))
    assert load_own(newest)[0]["progress"]["cur_nimg"] < 16
    assert train.train(job, ONE_DEVICE) == 0
    whole, again = (read_header(path / FINAL) for path in (trained.run_dir, run_dir))
    assert again["digests"] == whole["digests"]


@pytest.mark.slow
def test_two_devices_do_what_one_does(trained, compiled):
    """All methods share minibatches through the loop, which fast tests cover."""
    if trained.variant in STYLEGANS:
        pytest.skip("test_gan_step compares pictures: gradients that instance norm makes 0 are "
                    "rounding, of which Adam without momentum makes whole steps")
    assert_two_devices_do_what_one_does(lambda strategy: begun(trained, strategy))

"""What every method of training owes: it is trained for two ticks by its command line, stopped,
continued, shown, used and measured, in miniature.

A new --variant needs a line in METHODS, and nothing else here.
"""

import html
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import generate
import run_metrics
import train
from tests.tools import domains, labelled_pictures, labelled_seeds, people
from tests.tools.data_helpers import FOUR, make_dataset, random_image, read_jsonl
from tests.tools.training_runs import ONE_DEVICE, assert_two_devices_do_what_one_does
from training.run import signals
from training.run.options import given_options, parse_training_options
from training.snapshots import load_own, load_snapshot, read_header, save_snapshot
from training.state import list_states
from training.training_loop import Training
from training.variants import CONFIGS

FINAL = "network-final.safetensors"
INCEPTION = Path(__file__).parents[1] / "frozen" / "inception.npz"
# Two ticks of two steps.
COMMON = ["--device=cpu", "--minibatch=4", "--minibatch-repeats=1", "--tick-kimg=0.008",
          "--network-ticks=1", "--image-ticks=2"]
SHORT = [*COMMON, "--preset=tiny", "--kimg=0.016"]
STYLEGAN = [*COMMON, "--preset=demo-32", "--resolution=8", "--initial-resolution=8",
            "--fmap-base=32", "--fmap-max=4", "--latent-size=4", "--mapping-layers=1",
            "--lrate=1e-4"]
WITH_MAPS = [*STYLEGAN, "--rgb-kimg=0.008", "--classes-kimg=0.008"]  # the second tick has grown


class Miniature(NamedTuple):
    """How a method is tried.

    Attributes:
        make: function folder -> the options of train.py that name the data it makes there.
        options: the others; they switch on what two devices have to share, such as batch norm.
        use: options of generate.py; DATA is the folder of `make`.
        measure: options of run_metrics.py; none if the training alone measures.
        others: further options with which the method must do the same, tried by the slow tests.
    """

    make: Callable[[Path], list[str]]
    options: list[str]
    use: str
    measure: str = ""
    others: tuple[str, ...] = ()


def photos_and_maps(folder):
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, 8) for _ in range(12)])
    return [f"--data={make_dataset(folder / 'data', {'train': images, 'test': images}, FOUR)}"]


def coloured(folder):
    (folder / "photos").mkdir()
    Image.new("RGB", (20, 30), (200, 30, 9)).save(folder / "photos" / "red.png")
    return [f"--data={labelled_pictures.coloured_dataset(folder / 'data')}"]


def labelled(folder):
    labelled_pictures.coloured_dataset(folder / "data")
    origin, labels = labelled_seeds.labelled_folder(folder)
    return [f"--init-from={origin}", f"--labels={labels}"]


def two_lists(folder):
    domains.pair_folder(folder / "pairs")
    a, b = domains.two_datasets(folder, num_test=(2, 2))
    return [f"--data={a}", f"--target={b}"]


def posed(folder):
    return [f"--data={people.people_dataset(folder / 'data')}"]


METHODS = {
    "rgb": Miniature(photos_and_maps, [*STYLEGAN, "--rgb-kimg=0.016"], "--seeds=0-1",
                     f"--metrics=kid8 --inception={INCEPTION}"),
    "c": Miniature(photos_and_maps, WITH_MAPS, "--num=2", "--metrics=classes8"),
    "2d": Miniature(photos_and_maps, WITH_MAPS, "--num=2", "--metrics=classes8"),
    "segmenter": Miniature(coloured, [*SHORT, "--unet-fmaps=4", "--class-weights=balanced"],
                           "--source=DATA/photos", "--metrics=miou"),
    "decoder": Miniature(labelled, [*SHORT, "--held-back=0.25"], "--num=2",
                         "--metrics=maps8 --data=DATA/data",
                         others=("--decoder=linear", "--decoder=mlp")),
    "pix2pix": Miniature(coloured, [*SHORT, "--g-fmaps=4", "--d-fmaps=4", "--critic=semantic",
                                    "--norm=batch", "--spectral-norm"],
                         "--maps=DATA/data/test", "--metrics=l1",
                         others=("--scales=2 --norm=instance",)),
    "pose": Miniature(posed, [*SHORT, "--g-fmaps=4", "--d-fmaps=4", "--halvings=1",
                              "--critic=semantic", "--norm=batch"],
                      "--source=DATA/data/val --poses=DATA/data/val"),
    "cyclegan": Miniature(two_lists, [*SHORT, "--fmaps=4", "--pool=3", "--garment=box",
                                      "--norm=batch", "--critic=picture", "--clip-norm=0.05",
                                      "--lrate=1e-4"],
                          "--source=DATA/pairs --direction=AtoB", "--metrics=cycleloss",
                          others=("--garment=box --norm=instance --identity-weight=0.5",)),
}
STYLEGANS = ("rgb", "c", "2d")
FAST = set(METHODS) - {"rgb", "c"}  # stages of 2d


def miniatures():
    """(variant, further options) of all that is tried, as parameters."""
    for variant, miniature in METHODS.items():
        for more in ("", *miniature.others):
            marks = () if variant in FAST and not more else pytest.mark.slow
            yield pytest.param((variant, more), marks=marks, id=f"{variant} {more}".rstrip())


class Trained(NamedTuple):
    """A finished training: its data, its run directory, and what makes its Job again."""

    variant: str
    data: Path
    run_dir: Path
    command: list[str]

    def job(self, *options):
        """The Job of the command with further options."""
        parsed = parse_training_options([*self.command, *options])
        return train.make_job(parsed, given_options(parsed), None)


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    """Few steps take less time than their traces; each network has compiled steps in its tests."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", params=miniatures())
def trained(request, tmp_path_factory):
    variant, more = request.param
    folder = tmp_path_factory.mktemp(variant)
    command = [f"--variant={variant}", *METHODS[variant].make(folder), *METHODS[variant].options,
               *more.split()]
    found = Trained(variant, folder, folder / "run", command)
    assert train.train(found.job(f"--run={found.run_dir}"), ONE_DEVICE) == 0
    return found


def test_every_method_is_tried():
    assert METHODS.keys() == CONFIGS.keys()


def test_a_run_of_two_ticks(trained):
    """And the commands that come next are in its log."""
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


def test_a_stopped_training_ends_as_one_that_was_not(trained, tmp_path, monkeypatch):
    """To the last bit, stopped within a tick."""
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
    """Those of the newest training state; read and written again they are the same."""
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
    """Finished, with curves, and with its own words for its pictures."""
    page = (trained.run_dir / "index.html").read_text()
    for name in read_header(trained.run_dir / FINAL)["classes"]:
        assert f"</i>{name}<" in page  # in the legend
    assert "finished" in page and "Losses and scores" in page and "fakes000000.016.png" in page
    assert html.escape(CONFIGS[trained.variant].cells) in page


def of_data(options, trained):
    return options.replace("DATA", str(trained.data)).split()


def test_generate_takes_it(trained, tmp_path):
    out = tmp_path / "out"
    assert generate.main([f"--network={trained.run_dir}", f"--out={out}",
                          *of_data(METHODS[trained.variant].use, trained)]) == 0
    pictures = [np.asarray(Image.open(path)) for path in out.rglob("*.png")]
    assert any(np.ptp(picture) for picture in pictures)


def test_a_metric_of_it(trained, tmp_path):
    """By run_metrics.py, or that of the ticks."""
    options = of_data(METHODS[trained.variant].measure, trained)
    if options:
        assert run_metrics.main([f"--network={trained.run_dir}", *options]) == 0
        records = [record["results"] for path in trained.run_dir.glob("metric-*.jsonl")
                   for record in read_jsonl(path)]
    else:
        records = [{name: value for name, value in event.items() if name.startswith("Metrics/")}
                   for event in read_jsonl(trained.run_dir / "stats.jsonl")]
    values = [value for record in records for value in record.values()]
    assert values and np.isfinite(values).all()


@pytest.mark.slow
def test_two_devices_do_what_one_does(trained):
    """Compiled; each method's sharing of a minibatch is the loop's, which fast tests cover."""
    if trained.variant in STYLEGANS:
        pytest.skip("test_gan_step compares pictures: gradients that instance norm makes 0 are "
                    "rounding, of which Adam without momentum makes whole steps")
    def begun(strategy):
        method = trained.job().make_method(strategy, logging.getLogger("conformance"))
        with strategy.scope():
            return method, method.begin()

    tf.config.run_functions_eagerly(False)
    try:
        assert_two_devices_do_what_one_does(begun)
    finally:
        tf.config.run_functions_eagerly(True)

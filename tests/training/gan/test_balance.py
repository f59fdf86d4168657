"""Drawing photos of rare classes more often: the stated formula, at any position of the stream.
"""

import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import train
from dnnlib.data.dataset import open_dataset, open_split
from dnnlib.tflib.distribute import replica_rows
from dnnlib.util import UserError
from tests.conftest import TINY
from tests.tools.data_helpers import FOUR, make_dataset, one_hot, read_jsonl
from tests.tools.training_runs import ONE_DEVICE, begin, stop_after
from training.config import TrainingConfig
from training.dataset import TrainingStream, permutation
from training.gan import balance
from training.gan.schedule import make_stage
from training.run.config_checks import fit_to_dataset
from training.run.stylegan_job import start_notes
from training.snapshots import read_header
from training.stylegan import StyleGan

NUM = 12


def table(rng, num=60, odds=(0.9, 0.5, 0.2, 0.1)):
    """Return which classes random photos show, bool [num, C]; some show none."""
    return rng.random((num, len(odds))) < odds


def frequencies(shown, factors):
    return factors @ shown / factors.sum()


def objective(shares, shown, strength):
    """Return the objective in the module's docstring."""
    p, found = shares @ shown, shown.mean(axis=0)
    p, level = p[found > 0], found[found > 0].mean()
    return ((1 - strength) * (shares * np.log(len(shares) * shares)).sum()
            + strength * (p * np.log(p / level) - p + level).sum())


# The formula.

@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("case", range(3))
def test_no_other_distribution_is_better(case, strength):
    """In any direction within the bounds, which are reached at 0.95."""
    rng = np.random.default_rng(case)
    shown = table(rng, odds=[(0.9, 0.5, 0.2, 0.1), (0.5, 0.03, 0.3), (1.0, 0.7, 0.05)][case])
    shares = balance.photo_factors(shown, strength) / len(shown)
    free = shown.any(axis=1)
    best = objective(shares, shown, strength)
    for _ in range(100):
        goal = np.where(free, np.exp(rng.normal(0, rng.uniform(0.1, 2), len(shown))), 1)
        for _ in range(100):
            goal[free] *= free.sum() / goal[free].sum()
            goal = np.clip(goal, 0.1, 10)
        assert goal.sum() == pytest.approx(len(shown))
        for size in (1e-3, 0.03, 1):
            other = shares + size * (goal / len(shown) - shares)
            assert objective(other, shown, strength) > best - 1e-6


def test_it_is_the_nearest_to_uniform_with_its_class_frequencies(rng):
    """By Kullback-Leibler divergence, among distributions with the same class frequencies."""
    shown = table(rng)
    shown[:, 0] = True  # so that no photo's factor is fixed
    shares = balance.photo_factors(shown, 0.5) / len(shown)
    shares /= shares.sum()
    fixed = np.concatenate([shown, np.ones((len(shown), 1))], axis=1).T
    rank = np.linalg.matrix_rank(fixed)
    unseen = np.linalg.svd(fixed)[2][rank:]  # directions that change no frequency
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(100):
            other = shares + size / len(shown) * (rng.standard_normal(len(unseen)) @ unseen)
            np.testing.assert_allclose(other @ shown, shares @ shown, atol=1e-12)
            assert (other * np.log(other)).sum() > (shares * np.log(shares)).sum() - 1e-9


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
def test_photos_of_one_class_each_follow_the_power_law(strength):
    counts = np.array([400, 100, 60, 40])
    shown = np.repeat(np.eye(4, dtype=bool), counts, axis=0)
    found = frequencies(shown, balance.photo_factors(shown, strength))
    wanted = (counts / 600) ** (1 - strength)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=2e-4)


def test_more_strength_makes_classes_more_alike(rng):
    shown = table(rng, 500)
    ratios, spreads = [], []
    for strength in (0, 0.25, 0.5, 0.75, 1):
        found = frequencies(shown, balance.photo_factors(shown, strength))
        ratios.append(found.max() / found.min())
        spreads.append(found.std())
    assert ratios == sorted(ratios, reverse=True) and spreads == sorted(spreads, reverse=True)
    assert ratios[0] > 6 and ratios[-1] < 1.3


def test_factors_of_rare_photos_are_bounded():
    """Five photos of a class in a thousand, and one photo with all rare classes."""
    shown = np.zeros((1000, 3), bool)
    shown[:, 0], shown[:5, 1], shown[4:6, 2] = True, True, True
    factors = balance.photo_factors(shown, 1)
    assert factors.max() == factors[4] == balance.MAX_FACTOR == 10
    assert factors.min() >= 0.1 and factors.sum() == pytest.approx(1000, rel=1e-4)
    assert frequencies(shown, factors)[1] <= 0.0501


def test_photos_without_classes_keep_their_share(rng):
    shown = table(rng)
    shown[::5] = False
    for strength in (0.3, 1):
        factors = balance.photo_factors(shown, strength)
        assert (factors[~shown.any(axis=1)] == 1).all()
        assert factors.sum() == pytest.approx(60, rel=1e-4)


@pytest.mark.parametrize("shown", [
    np.ones((7, 3), bool), np.zeros((7, 3), bool), np.eye(4, dtype=bool),
    np.tile([True, False, True], (9, 1))])
def test_photos_that_are_alike_are_drawn_alike(shown):
    """Also if no photo shows any class, or none shows one of them."""
    assert (balance.photo_factors(shown, 0.7) == 1).all()


def test_a_class_without_photos_changes_nothing_for_the_others(rng):
    shown = table(rng)
    with_absent = np.insert(shown, 2, False, axis=1)
    np.testing.assert_array_equal(balance.photo_factors(with_absent, 0.6),
                                  balance.photo_factors(shown, 0.6))


def test_no_strength_is_uniform(rng):
    assert (balance.photo_factors(table(rng), 0) == 1).all()


# The draws of an epoch.

def test_an_epoch_has_each_photo_as_often_as_its_share_requires(rng):
    factors = balance.photo_factors(table(rng), 0.9)
    expected = len(factors) * factors / factors.sum()
    total = np.zeros(len(factors))
    for epoch in range(400):
        counts = np.bincount(balance.epoch_draws(factors, 3, epoch), minlength=len(factors))
        assert counts.sum() == len(factors)
        assert (counts >= np.floor(expected)).all() and (counts <= np.ceil(expected)).all()
        total += counts
    # The offset is uniform: the mean's standard deviation is at most 0.5 / sqrt(400).
    np.testing.assert_allclose(total / 400, expected, atol=0.1)


def test_offsets_follow_from_seed_and_epoch(rng):
    factors = balance.photo_factors(table(rng), 0.9)
    draws = {(seed, epoch): balance.epoch_draws(factors, seed, epoch).tobytes()
             for seed in (1, 2) for epoch in (0, 1, 10**6)}
    assert len(set(draws.values())) == len(draws)
    assert draws[2, 1] == balance.epoch_draws(factors, 2, 1).tobytes()


def test_integers_suffice_for_the_largest_data_sets():
    factors = np.full(10**6, 1.0)
    factors[0], factors[1:10] = 9.1, 0.1
    counts = np.bincount(balance.epoch_draws(factors, 0, 0), minlength=10**6)
    assert counts.sum() == 10**6 and counts[0] in (9, 10) and set(counts[10:]) == {1}


# The stream.

@pytest.fixture(scope="module")
def labels():
    """Return label maps uint8 [NUM, 16, 16]: all show the coat, one in six the hat, one the shoes;
    the last one shows nothing."""
    maps = np.zeros((NUM, 16, 16), np.uint8)
    maps[:-1, 8:] = 2
    maps[::6, :8] = 1
    maps[3, :3, :3] = 4
    return maps


@pytest.fixture(scope="module")
def data(labels, tmp_path_factory):
    """Make a data set whose photo i has the grey level 10 i, so that a sample shows its number."""
    colours = np.broadcast_to(10 * np.arange(NUM)[:, None, None, None], (NUM, 3, 16, 16))
    maps = one_hot(labels, 4).transpose(0, 3, 1, 2)
    images = np.concatenate([colours, maps], axis=1).astype(np.uint8)
    return make_dataset(tmp_path_factory.mktemp("data") / "figures", {"train": images})


@pytest.fixture(scope="module")
def factors(data):
    return balance.photo_factors(balance.classes_shown(data, "train", 16), 0.8)


def numbers(data, samples, **options):
    """Return the first samples of a stream, as numbers of photos."""
    options = {"resolution": 16, "num_channels": 7, "minibatch": 4, "seed": 1, **options}
    taken = itertools.islice(TrainingStream([data], **options), samples // options["minibatch"])
    return np.concatenate([batch.images.numpy()[:, 0, 0, 0] // 10 for batch in taken])


def test_a_photo_shows_what_its_maps_show(data, labels):
    shown = balance.classes_shown(data, "train", 16)
    for number, label_map in enumerate(labels):
        assert set(np.flatnonzero(shown[number]) + 1) == set(np.unique(label_map)) - {0}
    # At 4x4 the shoes' 3x3 pixels are 9/16 of one pixel.
    np.testing.assert_array_equal(balance.classes_shown(data, "train", 4), shown)


def test_records_of_other_classes_are_one_line(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    content = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({
        **content, "classes": ["hat", "coat"], "num_channels": 5}))
    with pytest.raises(UserError, match=r"train-r04\.tfrecords: record 0 has 4 class maps, exp"):
        balance.classes_shown(copy, "train", 16)


def test_large_levels_are_not_decoded(data, monkeypatch):
    monkeypatch.setattr(balance, "COUNT_RESOLUTION", 8)
    opened = []
    monkeypatch.setattr(balance, "open_split",
                        lambda info, split, side: opened.append(side) or open_split(info, split,
                                                                                   side))
    assert balance.classes_shown(data, "train", 16).any()
    assert opened == [8]


def test_equal_factors_leave_the_stream_unchanged(data):
    expected = numbers(data, 60)
    np.testing.assert_array_equal(numbers(data, 60, factors=np.ones(NUM)), expected)
    np.testing.assert_array_equal(
        expected, [permutation(1, k // NUM, NUM)[k % NUM] for k in range(60)])


def test_the_stream_has_the_draws_of_each_epoch(data, factors):
    epochs = numbers(data, 40 * NUM, factors=factors).reshape(40, NUM)
    for epoch, drawn in enumerate(epochs):
        np.testing.assert_array_equal(np.sort(drawn), balance.epoch_draws(factors, 1, epoch))
        assert not np.array_equal(np.sort(drawn), drawn)
    means = np.bincount(epochs.reshape(-1), minlength=NUM) / 40
    assert means[3] == pytest.approx(factors[3], abs=0.25) and factors[3] > 2


@pytest.mark.parametrize("start", [7, 1_000_003])
def test_a_stream_can_start_anywhere(data, factors, start):
    expected = [balance.epoch_draws(factors, 1, k // NUM)[permutation(1, k // NUM, NUM)[k % NUM]]
                for k in range(start, start + 24)]
    found = numbers(data, 24, minibatch=2, start_nimg=start, factors=factors)
    np.testing.assert_array_equal(found, expected)


def test_devices_share_the_same_stream(data, factors):
    whole = numbers(data, 48, minibatch=8, factors=factors).reshape(6, 8)
    for replica in range(2):
        rows = replica_rows(8, 2, replica, 4)
        part = numbers(data, 48, minibatch=8, factors=factors, rows=rows).reshape(6, 4)
        np.testing.assert_array_equal(part, whole[:, rows])


def test_fakes_get_labels_as_often_as_reals(data, factors, tmp_path):
    images = np.stack([open_split(open_dataset(data), "train").read_image(i) for i in range(NUM)])
    labelled = make_dataset(tmp_path / "labelled", {"train": images},
                            labels={"train": np.eye(NUM)})
    options = {"resolution": 16, "num_channels": 7, "minibatch": 4, "seed": 1}
    np.testing.assert_array_equal(TrainingStream([labelled], **options).labels, np.eye(NUM))
    stream = TrainingStream([labelled], factors=factors, **options)
    counts = stream.labels.sum(axis=0)
    np.testing.assert_array_equal(counts, np.bincount(balance.epoch_draws(factors, 1, 0),
                                                      minlength=NUM))
    for images, one in itertools.islice(stream, 6):  # a record keeps its own label
        np.testing.assert_array_equal(images[:, 0, 0, 0].numpy() // 10, one.numpy().argmax(axis=1))


# A training.

def config_of(data, **changes):
    return TrainingConfig(**{**TINY, "data": str(data), "resolution": 8, "initial_resolution": 8,
                             "rgb_kimg": 0.016, "variant": "2d", "balance": 0.8, **changes})


@pytest.mark.parametrize("variant, balanced", [
    ("2d", {("classes", "joint")}), ("c", {("classes", "joint")}), ("rgb", set())])
def test_only_the_joint_critic_sees_balanced_photos(data, variant, balanced):
    """In the class stage; everywhere else a critic sees the natural frequencies."""
    method = StyleGan(config_of(data, variant=variant), open_dataset(data), ONE_DEVICE)
    found = set()
    for name in ("rgb",) if variant == "rgb" else ("rgb", "binary", "classes"):
        stage = make_stage(method.config, 4, name)
        for critic in stage.critics:
            stream = method._stream(critic, stage, 0)
            if not np.array_equal(np.sort(stream._order(5)), np.arange(NUM)):
                found.add((name, critic.name))
    assert found == balanced


def test_without_balance_nothing_is_counted(data, monkeypatch):
    monkeypatch.setattr(balance, "open_split", None)
    method = StyleGan(config_of(data, balance=0.0), open_dataset(data), ONE_DEVICE)
    stage = make_stage(method.config, 4, "classes")
    assert np.array_equal(np.sort(method._stream(stage.critics[1], stage, 0)._order(5)),
                          np.arange(NUM))


@pytest.mark.slow
def test_a_stopped_run_draws_the_same_photos(data, tmp_path):
    """The reported frequencies are still the natural ones."""
    config = config_of(data, variant="c", resolution=4, initial_resolution=4, rgb_kimg=0.0,
                       binary_kimg=0.0, classes_kimg=0.064)
    assert begin(config, tmp_path / "whole").run() is True
    first = begin(config, tmp_path / "parts")
    stop_after(first, 3)
    assert first.run() is False and first.progress.stage == "classes"
    assert begin(config, tmp_path / "parts").run() is True
    digests = [read_header(tmp_path / name / "network-final.safetensors")["digests"]
               for name in ("whole", "parts")]
    assert digests[0] == digests[1]
    last = [e for e in read_jsonl(tmp_path / "whole" / "stats.jsonl") if e["event"] == "tick"][-1]
    assert last["Classes/real/shoes"] == pytest.approx(1 / 12)


def test_start_notes_describe_the_balance(data):
    options = SimpleNamespace(preset="demo-32", init_from=None)
    config = config_of(data, mirror=False)
    lines = start_notes(config, open_dataset(data), options, None, {}, False)
    (line,) = [line for line in lines if line.startswith("balanced: the joint critic sees ")]
    assert "; no photo shows legs; " in line


def test_the_log_line_names_rare_classes_and_the_largest_factor():
    shown = np.zeros((10, 5), bool)
    shown[:, 0], shown[:4, 1], shown[:2, 2], shown[:1, 3] = True, True, True, True
    factors = np.ones(10)
    factors[0], factors[9] = 1.5, 0.5
    line = balance.balance_line(["a", "b", "c", "d", "e"], shown, factors)
    assert line == ("balanced: the joint critic sees d in 15.0% of its photos (10.0% of the data "
                    "set's), c in 25.0% of its photos (20.0% of the data set's), b in 45.0% of its "
                    "photos (40.0% of the data set's); no photo shows e; the most drawn photo "
                    "comes 1.5 times as often as before")


@pytest.mark.parametrize("changes, message", [
    ({"balance": 1.1}, "--balance=1.1: expected a number from 0 to 1"),
    ({"balance": -0.1}, "--balance=-0.1: expected a number from 0 to 1"),
    ({"classes_kimg": 0.0}, "--balance: --classes-kimg=0 leaves out the stage")])
def test_bad_values_are_refused(data, changes, message):
    with pytest.raises(UserError, match=message):
        config_of(data, **changes)


def test_a_training_without_maps_has_nothing_to_balance(data):
    with pytest.raises(UserError, match="--balance: without effect: --variant=rgb has no stages"):
        train.main([f"--data={data}", "--variant=rgb", "--device=cpu", "--preset=demo-32",
                    "--balance=0.5", "--dry-run"])


def test_a_single_class_cannot_be_balanced(tmp_path):
    one = make_dataset(tmp_path / "one", {"train": np.zeros((4, 4, 8, 8), np.uint8)}, FOUR[:1])
    with pytest.raises(UserError, match=r"--balance: .*one has one class"):
        fit_to_dataset(config_of(one), open_dataset(one), 1)


def test_runs_of_earlier_versions_are_not_balanced(data):
    stored = config_of(data).to_json()
    del stored["balance"]
    assert TrainingConfig.from_json(stored).balance == 0

"""Which pairs are accepted, as a function of seeds and options alone."""

import json
import shlex

import numpy as np
import pytest
from scipy import ndimage

from dnnlib.data import pictures
from dnnlib.util import UserError
from generation import pairs, selection
from generation.options import parse_options
from generation.selection import GaveUpError, Request, Selection, Tally, Traits
from tests.tools.generators import RESOLUTION, save_network
from training.sampler import Sampler, label_maps

CLASSES = ("hat", "scarf", "bag")
LARGE = Selection(require=("hat", "bag"), min_area=0.2)
CHOSEN = Selection(require=("hat", "scarf"), min_area=0.1)  # about a fifth of the seeds
PHOTO = slice(4, 12)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    return Sampler.load(save_network(path, CLASSES, seed=4))


@pytest.fixture(scope="module")
def padded_sampler(tmp_path_factory):
    """Return a sampler of photos that fill the columns PHOTO."""
    path = tmp_path_factory.mktemp("padded") / "network.safetensors"
    return Sampler.load(save_network(path, CLASSES, seed=4, dataset={
        "resolution": RESOLUTION, "content_box": [PHOTO.start, 0, PHOTO.stop, RESOLUTION]}))


def images_of(*label_values):
    """Return images [1, 2, 2, 3 + C] whose four pixels have these values of the maps."""
    return np.concatenate([np.zeros((4, 3)), np.array(label_values)], 1).astype(
        np.float32).reshape(1, 2, 2, -1)


# Confidence

def test_maps_of_real_images_are_confident():
    """A map's own pixels are 0.5, all others -0.5: garment and background alike."""
    sure = images_of([0.5, -0.5], [-0.5, 0.5], [-0.5, -0.5], [-0.5, -0.5])
    assert selection.confidence(sure) == [1.0]
    assert selection.confidence(3 * sure[..., :]) == [1.0]


@pytest.mark.parametrize("values, expected", [
    ([0.1, -0.5], 0.2),   # hardly above the background
    ([0.5, 0.4], 0.2),    # hardly above another class
    ([-0.1, -0.5], 0.2),  # hardly background
    ([0.0, 0.0], 0.0)])
def test_a_margin_is_to_the_runner_up(values, expected):
    assert selection.confidence(images_of(*[values] * 4)) == [pytest.approx(expected)]


def test_each_label_in_the_map_counts_equally():
    """One uncertain pixel of a small class weighs as much as three sure background pixels."""
    images = images_of([0.05, -0.5], [-0.5, -0.5], [-0.5, -0.5], [-0.5, -0.5])
    assert selection.confidence(images) == [pytest.approx((0.1 + 1) / 2)]


def test_areas_are_shares_of_the_photo():
    images = images_of([0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5])
    traits, = selection.measure(images, label_maps(images))
    assert traits.areas.tolist() == [0.25, 0.5]
    assert selection.crop_to_box(np.arange(16).reshape(1, 4, 4), (1, 0, 3, 4)).tolist() == [
        [[1, 2], [5, 6], [9, 10], [13, 14]]]


# Small regions

def drawn(rows):
    """Return an image whose maps draw this label map of digits; margins differ between pixels."""
    labels = np.array([list(map(int, row)) for row in rows])
    rng = np.random.default_rng(0)
    segmaps = -rng.uniform(0.1, 0.5, (*labels.shape, 2))
    for label in (1, 2):
        segmaps[labels == label, label - 1] *= -1
    return np.concatenate([np.zeros((*labels.shape, 3)), segmaps], -1)[None].astype(np.float32)


@pytest.mark.parametrize("min_region, expected", [
    (None, ["21110", "11110", "11010", "22200", "20201"]),
    # Pixels in corners, and a hole in a garment; pixels that touch at a corner are one region.
    (2, ["11110", "11110", "11010", "22200", "22200"]),
    (7, ["11110", "11110", "11010", "00000", "00000"])])
def test_small_regions_get_the_label_around_them(min_region, expected):
    images = drawn(["21110", "11110", "11010", "22200", "20201"])
    before = images.copy()
    found = selection.without_small_regions(images, min_region)
    assert label_maps(found)[0].tolist() == [list(map(int, row)) for row in expected]
    assert (images == before).all() and (found[..., :3] == 0).all()
    # Unsure pixels stay unsure: values swap or change their sign.
    assert (np.sort(np.abs(found), axis=-1) == np.sort(np.abs(images), axis=-1)).all()


@pytest.mark.parametrize("rows", [["111", "101", "111"], ["11"], ["0"]])
def test_holes_are_filled_and_pictures_of_one_label_do_not_change(rows):
    found = label_maps(selection.without_small_regions(drawn(rows), 4))[0]
    assert (found == int(rows[0][0])).all()


def test_regions_are_removed_alike_with_and_without_padding(padded_sampler, tmp_path):
    """The photos are the same, and replay reproduces the pairs."""
    chosen, photos = Selection(require=("hat",)), []
    request = Request(range(100), 5, selection=chosen, max_tries=90)
    for keep_padding in (False, True):
        recipe = pairs.make_recipe(padded_sampler, 1.0, "random", keep_padding, min_region=6)
        out = tmp_path / f"padding {keep_padding}"
        pairs.write_pairs(padded_sampler, recipe, request, out)
        records = pairs.read_samples(out / "samples.jsonl")
        assert len(records) == 5 and {record["min_region"] for record in records} == {6}
        for record in records:
            labels = pictures.read_png(out / record["label"])
            for label in np.unique(labels):
                regions, _ = ndimage.label(labels == label, np.ones((3, 3)))
                assert np.bincount(regions.ravel())[1:].min() >= 6
            photos.append((record["seed"], labels[:, PHOTO] if keep_padding else labels))
            assert pairs.replay(padded_sampler, record, out, tmp_path / "again")[0]
    for (seed, labels), (same_seed, same_labels) in zip(photos[:5], photos[5:]):
        assert seed == same_seed
        np.testing.assert_array_equal(labels, same_labels)
    with pytest.raises(UserError, match="min_region 6 there, None now"):
        pairs.write_pairs(padded_sampler, pairs.make_recipe(padded_sampler, 1.0, "random"),
                          request, tmp_path / "padding False")


# Decisions

def decide(chosen, *pairs_of_areas, sureness=0.5, tally=None):
    """Return the decisions of a selection on pairs with these areas of CLASSES, one by one."""
    tally = tally or Tally()
    return [tally.decide(chosen, CLASSES, Traits(np.array(areas), sureness))
            for areas in pairs_of_areas], tally


def test_pairs_must_show_all_required_classes_with_enough_area():
    accepted, tally = decide(LARGE, (0.2, 0, 0.3), (0.19, 0, 0.3), (0.5, 0.5, 0.0))
    assert accepted == [True, False, False]
    assert tally == Tally(3, 1, 2, seen={"hat": 2, "bag": 2, "scarf": 1},
                          shown={"hat": 1, "bag": 1},
                          rejected={"without hat": 1, "without bag": 1})
    assert tally.lines(LARGE, CLASSES)[1] == "shown on 20 % or more by accepted pairs (by all " \
        "tried): hat 100 % (66.7 %), bag 100 % (66.7 %)"


def test_without_a_minimum_area_a_pixel_is_enough():
    assert decide(Selection(require=("hat",)), (1e-9, 0, 0), (0, 1, 1))[0] == [True, False]


def test_unsure_pairs_are_rejected():
    chosen = Selection(min_confidence=0.6)
    assert decide(chosen, (1, 0, 0), sureness=0.59)[1].rejected == {"unsure": 1}
    assert decide(chosen, (1, 0, 0), sureness=0.6)[0] == [True]


def test_balance_reaches_its_share_for_every_class_that_is_drawn():
    """Classes in 90, 30 and 3 % of the pairs are each in a fifth of the accepted ones."""
    rng, tally = np.random.default_rng(0), Tally()
    while tally.accepted < 200:
        areas = (rng.random(3) < [0.9, 0.3, 0.03]).astype(float)
        decide(Selection(balance=0.2), areas, tally=tally)
    assert tally.seen["bag"] / tally.tried < 0.05
    assert min(tally.shown[name] for name in CLASSES) >= 0.2 * 200 - 1
    # No more than the rarest class needs: 40 pairs with it, of 3 % of all.
    assert tally.tried < 1.5 * 40 / 0.03


@pytest.mark.parametrize("with_bag, areas, expected", [
    (1, (0, 1, 0), False), (1, (0, 0, 1), True), (1, (1, 0, 1), True), (2, (0, 1, 0), True),
    (2, (1, 0, 0), False)])
def test_a_pair_must_show_what_is_missing_most(with_bag, areas, expected):
    """Of 11 pairs, 4.4 should show each class: 1.4 scarves, and 3.4 or 2.4 bags are missing."""
    tally = Tally(accepted=10, shown={"hat": 10, "scarf": 3, "bag": with_bag})
    assert decide(Selection(balance=0.4), areas, tally=tally)[0] == [expected]


def test_a_tally_continues_from_its_json():
    """The next decision is the same."""
    _, tally = decide(Selection(balance=0.4), (1, 0, 0), (1, 0, 0), (0, 1, 0))
    again = Tally(**json.loads(json.dumps(vars(tally))))
    for areas in ((1, 0, 0), (0, 0, 1), (0, 1, 0)):
        assert decide(Selection(balance=0.4), areas, tally=again) == \
            decide(Selection(balance=0.4), areas, tally=tally)


def test_several_tallies_are_added_up():
    one, other = decide(LARGE, (0.2, 0, 0.3))[1], decide(LARGE, (0.2, 0, 0.1), (0, 0, 0))[1]
    total = selection.sum_tallies([one, other])
    assert (total.tried, total.accepted) == (3, 1)
    assert total.seen == {"hat": 2, "bag": 1} and total.shown == {"hat": 1, "bag": 1}
    assert total.rejected == {"without bag": 1, "without hat": 1}


def test_only_some_classes_may_be_balanced():
    """Each by its own share; a class that is never drawn is not waited for."""
    tally, chosen = Tally(), Selection(balance={"hat": 0.5, "scarf": 0.25})
    for number in range(200):
        decide(chosen, (number % 5 == 0, number % 10 == 1, 0), tally=tally)
    assert tally.shown["hat"] >= 0.5 * tally.accepted - 1 > 20
    assert tally.shown["scarf"] >= 0.25 * tally.accepted - 1
    lines = tally.lines(chosen, CLASSES)
    assert "hat" in lines[1] and "bag" not in lines[1]


@pytest.mark.parametrize("chosen, message", [
    (Selection(require=("scraf",)), "--require: 'scraf' is none of the classes hat, scarf, bag; "
                                    "did you mean 'scarf'"),
    (Selection(balance={"shoe": 0.1}), "--balance: 'shoe' is none of the classes hat, scarf, bag")])
def test_classes_that_the_network_does_not_draw_are_refused(chosen, message):
    with pytest.raises(selection.UserError, match=message):
        chosen.match_classes(CLASSES)
    with pytest.raises(selection.UserError, match="draws no maps"):
        chosen.match_classes(())


def test_classes_are_found_whatever_their_case():
    chosen = Selection(require=("BAG", "bag"), balance={"Hat": 0.1})
    assert chosen.match_classes(CLASSES) == Selection(require=("bag",), balance={"hat": 0.1})
    with pytest.raises(UserError, match="--balance: Hat, hat name a class twice"):
        Selection(balance={"Hat": 0.1, "hat": 0.9}).match_classes(CLASSES)


# The accepted set

def request(num, max_tries=200, chosen=CHOSEN, first=0):
    return Request(range(first, 10_000), num, selection=chosen, max_tries=max_tries)


def expected_seeds(sampler, num, first=0, chosen=CHOSEN, columns=slice(None)):
    """Return the first `num` seeds whose maps, made 16 at a time, show the required classes."""
    found, start = [], first
    while len(found) < num:
        images, = sampler.seed_images(range(start, start + 16), 1.0, "random", 16)
        for seed, label_map in zip(range(start, start + 16), label_maps(images)[..., columns]):
            shares = [(label_map == CLASSES.index(name) + 1).mean() for name in chosen.require]
            if min(shares) >= chosen.min_area:
                found.append(seed)
        start += 16
    return found[:num]


def write(sampler, out, num, **options):
    recipe = pairs.make_recipe(sampler, 1.0, "random")
    return pairs.write_pairs(sampler, recipe, request(num, **options), out)


def accepted_seeds(out):
    return [record["seed"] for record in pairs.read_samples(out / pairs.SAMPLES)]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(sampler, tmp_path_factory):
    out = tmp_path_factory.mktemp("chosen") / "out"
    assert write(sampler, out, 12)[:2] == (12, 0)
    return out


def test_accepted_are_the_first_seeds_that_fit(sampler, finished):
    assert accepted_seeds(finished) == expected_seeds(sampler, 12)
    content = json.loads((finished / pairs.SELECTION).read_text())
    assert content["accepted"] == 12 and content["tried"] == accepted_seeds(finished)[-1] + 1
    assert content["tried"] > 24, "a selection that rejects too little to test it"
    assert content["selection"]["require"] == ["hat", "scarf"]


def test_a_longer_run_continues_to_the_same_bytes(sampler, finished, tmp_path):
    for num in (1, 5, 12):
        write(sampler, tmp_path / "out", num)
    assert contents(tmp_path / "out") == contents(finished)


def test_rejected_seeds_are_not_tried_again(sampler, finished, tmp_path, monkeypatch):
    out, drawn = tmp_path / "out", []
    write(sampler, out, 5)
    tried = json.loads((out / pairs.SELECTION).read_text())["tried"]
    seed_images = sampler.seed_images

    def record(seeds, *args):
        drawn.append(seeds[0])
        return seed_images(seeds, *args)
    monkeypatch.setattr(sampler, "seed_images", record)
    write(sampler, out, 12)
    assert drawn[0] == tried // selection.BLOCK * selection.BLOCK > 0
    drawn.clear()
    write(sampler, out, 12)
    assert not drawn


@pytest.mark.parametrize("damage", ["between line and tally", "lost lines", "lost file", "killed"])
def test_an_interrupted_selection_ends_with_the_same_pairs(sampler, finished, tmp_path, damage,
                                                           monkeypatch):
    out = tmp_path / "out"
    if damage == "killed":
        class Killed(BaseException):
            pass

        def save(path, picture, write=pairs.pictures.save_png):
            if path.name == f"{expected_seeds(sampler, 7)[-1]:07d}.png":
                raise Killed
            write(path, picture)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(pairs.pictures, "save_png", save)
            write(sampler, out, 12)
    else:
        write(sampler, out, 5)
        old = (out / pairs.SELECTION).read_bytes()
        write(sampler, out, 12)
        lines = (out / pairs.SAMPLES).read_bytes().splitlines(keepends=True)
        if damage == "between line and tally":
            (out / pairs.SELECTION).write_bytes(old)
        elif damage == "lost lines":
            (out / pairs.SAMPLES).write_bytes(b"".join(lines[:3]))
        else:
            (out / json.loads(lines[2])["label"]).unlink()
    write(sampler, out, 12)
    ours, theirs = contents(out), contents(finished)
    lines = {name: folder.pop(pairs.SAMPLES).splitlines() for name, folder in
             (("ours", ours), ("theirs", theirs))}
    assert ours == theirs and set(lines["ours"]) == set(lines["theirs"])


def test_samples_are_made_in_one_minibatch_size_only(sampler, monkeypatch):
    """A network compiled for several sizes rounds differently: shards would depend on which were
    made before."""
    sizes, seed_images = [], sampler.seed_images

    def record(seeds, trunc, noise, minibatch):
        sizes.append((len(seeds), minibatch))
        return seed_images(seeds, trunc, noise, minibatch)
    monkeypatch.setattr(sampler, "seed_images", record)
    recipe = pairs.make_recipe(sampler, 1.0, "random")
    batches = list(selection.make_samples(sampler, recipe, Request(range(3, 22), 19)))
    assert [batch.seeds for batch in batches] == [list(range(3, 19)), [19, 20, 21]]
    assert [len(batch.images) for batch in batches] == [16, 3] and sizes == [(16, 16)] * 2


def test_the_search_for_a_rare_class_ends(sampler, tmp_path):
    out, never = tmp_path / "out", Selection(require=("hat",), min_area=0.95)
    with pytest.raises(GaveUpError, match=r"40 seeds in a row were rejected, with 0 of 3 pairs ac"
                                          r"cepted: tried 40 seeds, accepted 0 .*40 without hat"):
        write(sampler, out, 3, chosen=never, max_tries=40)
    # It stays ended, and continues with a larger limit.
    before = (out / pairs.SELECTION).read_bytes()
    with pytest.raises(GaveUpError, match="tried 40 seeds"):
        write(sampler, out, 3, chosen=never, max_tries=40)
    assert (out / pairs.SELECTION).read_bytes() == before
    with pytest.raises(GaveUpError, match="tried 50 seeds"):
        write(sampler, out, 3, chosen=never, max_tries=50)


def test_missing_classes_of_balance_are_named():
    wanted = Request(range(10_000), 50, selection=Selection(balance=0.1), max_tries=300)
    tally = Tally(500, 40, 300, seen={"hat": 400, "scarf": 50, "bag": 4}, shown={"hat": 40})
    with pytest.raises(GaveUpError, match=r"300 seeds in a row .*--max-tries.*Hardly ever drawn: "
                                          r"bag; balance the others alone, in another "
                                          r"folder: --balance=hat:10%,scarf:10%$"):
        wanted.check_found(tally, CLASSES)
    # The command can be copied, whatever the names of the classes.
    classes = ("hat, cap", "scarf", "bag")
    tally.seen["hat, cap"] = tally.seen.pop("hat")
    with pytest.raises(GaveUpError, match=r"--balance='hat  cap:10%,scarf:10%'$") as error:
        wanted.check_found(tally, classes)
    _, copied = shlex.split(str(error.value))[-1].split("=")
    balance = parse_options(["--num=9", f"--balance={copied}"]).balance
    assert Selection(balance=balance).match_classes(classes).balance == {
        "hat, cap": 0.1, "scarf": 0.1}


def test_running_out_of_seeds_is_not_a_rejection(sampler, tmp_path):
    wanted = Request(range(2**32 - 3, 2**32), 3, selection=LARGE, max_tries=100)
    with pytest.raises(GaveUpError, match=r"the seeds end at 4294967295, with . of 3 .*smaller "
                                          r"--first-seed, and another folder$"):
        pairs.write_pairs(sampler, pairs.make_recipe(sampler, 1.0, "random"), wanted, tmp_path)


def test_the_tally_of_a_killed_run_catches_up(sampler, finished, tmp_path):
    """Even if fewer pairs are wanted now: the output is about the pairs in the folder."""
    out = tmp_path / "out"
    write(sampler, out, 5)
    early = (out / pairs.SELECTION).read_bytes()
    write(sampler, out, 12)
    (out / pairs.SELECTION).write_bytes(early)
    made, kept, tally = write(sampler, out, 4)
    assert (made, kept, tally.accepted) == (0, 12, 12)
    assert contents(out) == contents(finished)


def test_folders_of_other_selections_are_refused(sampler, finished, tmp_path):
    before = contents(finished)
    for options, message in ((dict(first=1), "first_seed 0 there, 1 now"),
                             (dict(chosen=Selection(require=("hat",))), "chosen in another way")):
        with pytest.raises(selection.UserError, match=message):
            write(sampler, finished, 12, **options)
    recipe = pairs.make_recipe(sampler, 1.0, "random")
    with pytest.raises(selection.UserError, match="chosen in another way"):
        pairs.write_pairs(sampler, recipe, Request(range(12), 12), finished)
    assert contents(finished) == before
    pairs.write_pairs(sampler, recipe, Request(range(2), 2), tmp_path / "all")
    with pytest.raises(selection.UserError, match="chosen in another way"):
        write(sampler, tmp_path / "all", 2)


def test_the_padding_does_not_count(sampler, padded_sampler, tmp_path):
    """Areas and confidence are of the photo, whether the padding is written or not."""
    records = []
    for keep in (False, True):
        out, recipe = tmp_path / str(keep), pairs.make_recipe(padded_sampler, 1.0, "random", keep)
        pairs.write_pairs(padded_sampler, recipe, request(12), out)
        records.append(pairs.read_samples(out / pairs.SAMPLES))
    assert [record["seed"] for record in records[0]] == [record["seed"] for record in records[1]]
    assert [r["confidence"] for r in records[0]] == [r["confidence"] for r in records[1]]
    assert records[0][0]["box"] == list(padded_sampler.content_box)
    assert "box" not in records[1][0]
    inside = expected_seeds(sampler, 12, columns=PHOTO)
    assert [record["seed"] for record in records[0]] == inside
    assert inside != expected_seeds(sampler, 12), "a network for which it does not matter"

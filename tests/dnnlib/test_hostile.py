"""Arbitrary annotations and photos: create_modanet writes a photo or lists it with a reason."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dataprep import create
from dataprep.coco.segmentations import parse_int
from dnnlib.data import photos, tfrecords
from dnnlib.data.channels import SEGMAPS
from dnnlib.util import UserError, one_line
from tests.tools.data_helpers import create_config, photo_bytes, read_jsonl

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 20, 30
SUITE = settings(max_examples=120, deadline=None, derandomize=True, database=None,
                 suppress_health_check=list(HealthCheck))
LONG = settings(SUITE, max_examples=int(os.environ.get("HOSTILE_EXAMPLES", "3000")),
                derandomize=False)


def _files():
    """Return whole image files to be damaged."""
    rng = np.random.default_rng(0)
    kinds = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {}),
             ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}),
             ("AVIF", {})]
    return [photo_bytes(rng, WIDTH, HEIGHT, kind, **options) for kind, options in kinds]


FILES = _files()
ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
                st.lists(st.integers(), max_size=2), st.just({}), st.just(10**400))
COORDINATE = st.one_of(st.floats(-5, 35), st.integers(-5, 35))
STRANGE_POLYGON = st.one_of(
    st.lists(st.one_of(COORDINATE, st.floats(), st.integers(-10**12, 10**12), ODD), max_size=9),
    st.lists(st.sampled_from([0, WIDTH, HEIGHT, 1e-300, 5e-324, -0.0, 70, -99]), min_size=6,
             max_size=600), ODD)
RLE = st.fixed_dictionaries({"size": st.one_of(st.just([HEIGHT, WIDTH]), ODD), "counts": st.one_of(
    st.lists(st.integers(-9, 10**6), max_size=5), st.text(max_size=9), ODD)})


def one_of_many(usual, strange=ODD):
    """Draw mostly usual values, so that other parts of the input matter too."""
    return st.integers(0, 9).flatmap(lambda n: strange if n == 0 else usual)


POLYGON = one_of_many(st.integers(3, 7).flatmap(
    lambda n: st.lists(COORDINATE, min_size=2 * n, max_size=2 * n)), STRANGE_POLYGON)


def entries(fields):
    """Draw objects of which any field may be odd or missing, or values that are not objects."""
    usual = st.fixed_dictionaries(fields)
    partial = st.fixed_dictionaries({}, optional=fields)
    return one_of_many(usual, st.one_of(partial, ODD))


IDS = st.integers(1, 4)
IMAGES = st.lists(entries({
    "id": one_of_many(IDS), "file_name": one_of_many(st.sampled_from(
        ["1.jpg", "../secret.jpg", "/etc/passwd", "\x1b[2J\x9b1m\n.jpg", "\ud800", "a\0", ""])),
    "width": one_of_many(st.just(WIDTH), st.one_of(ODD, st.integers(1, 70_000))),
    "height": one_of_many(st.just(HEIGHT), st.one_of(ODD, st.integers(1, 70_000)))}), max_size=6)
ANNOTATIONS = st.lists(entries({
    "id": ODD, "image_id": one_of_many(IDS),
    "category_id": one_of_many(st.integers(1, 13), st.one_of(ODD, st.integers(-1, 15))),
    "iscrowd": ODD, "segmentation": one_of_many(st.lists(POLYGON, min_size=1, max_size=4),
                                                st.one_of(RLE, ODD))}), max_size=12)


@st.composite
def damaged(draw):
    """Draw an image file, whole or with bytes changed, cut out, doubled or appended."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        new = draw(st.one_of(st.binary(max_size=8), st.just(bytes(length)), st.just(data[:length]),
                             st.just(b"\xff\xd9")))
        data[at:at + draw(st.sampled_from([0, 1, length, len(data)]))] = new
    return bytes(data)


PHOTOS = st.dictionaries(IDS, st.one_of(st.sampled_from(FILES), damaged()), max_size=4)


def check_modanet(folder, images, annotations, files, with_good):
    """Run the command and check what must be true for any input, with or without a good photo."""
    if with_good:
        images = images + [{"id": 5, "file_name": "5.jpg", "width": WIDTH, "height": HEIGHT}]
        annotations = annotations + [{"id": 1, "image_id": 5, "category_id": 1,
                                      "segmentation": [[2, 2, 12, 2, 12, 22]]}]
        files = {**files, 5: FILES[0]}
    (folder / "images").mkdir()
    for image_id, data in files.items():
        (folder / "images" / f"{image_id:07d}.jpg").write_bytes(data)
    (folder / "secret.jpg").write_bytes(FILES[0])
    path, out = folder / "a.json", folder / "out"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    config = create_config(annotations=path, images=folder / "images", out=out, resolution=8,
                           num_val=0, num_test=0)
    said = []
    try:
        content = create.create_modanet(config, said.append)
    except UserError as error:
        event("refused")
        assert str(error).isprintable()
        assert not with_good or "counted from another number" in str(error)
        assert not (out / "dataset.json").exists()
        return
    written = content["splits"]["train"]
    event(f"{len(written)} written")
    skipped = read_jsonl(out / "skipped.jsonl")
    left_out = {line["id"] for line in skipped if "annotation" not in line}
    listed = {parse_int(entry.get("id"), 0, 2**53) for entry in images if isinstance(entry, dict)}
    assert set(written) | left_out - {None} == listed - {None} and not left_out & set(written)
    assert len(written) == len(set(written)) and set(written) <= files.keys()
    assert all(line["reason"].isprintable() for line in skipped)
    assert all(line.isprintable() for line in said)
    records = tfrecords.RecordFile(out / "train" / "train-r03.tfrecords")
    assert len(records) == len(written)
    for number in range(len(records)):
        image = records.read_image(number)
        assert image.shape == (16, 8, 8)
        assert image[SEGMAPS].astype(int).sum(axis=0).max() <= 255 + 13  # each is rounded
    assert (folder / "secret.jpg").read_bytes() == FILES[0]


@pytest.mark.slow
@SUITE
@given(IMAGES, ANNOTATIONS, PHOTOS, one_of_many(st.just(True), st.just(False)))
def test_every_photo_is_written_or_listed(tmp_path_factory, images, annotations, files, with_good):
    check_modanet(tmp_path_factory.mktemp("fuzz"), images, annotations, files, with_good)


@pytest.mark.slow
@LONG
@given(IMAGES, ANNOTATIONS, PHOTOS, one_of_many(st.just(True), st.just(False)))
def test_every_photo_is_written_or_listed_at_length(tmp_path_factory, images, annotations, files,
                                                    with_good):
    check_modanet(tmp_path_factory.mktemp("fuzz"), images, annotations, files, with_good)


def check_photo(data):
    """Check for a picture or PhotoError, and a probe that agrees."""
    try:
        picture = photos.decode_photo(data)
    except photos.PhotoError as error:
        event("refused")
        assert str(error).isprintable() and len(str(error)) < 200
        return
    event("decoded")
    assert picture.mode == "RGB" and picture.size == photos.probe(data)


@settings(SUITE, max_examples=300)
@given(damaged())
def test_a_damaged_photo_is_a_picture_or_refused(data):
    check_photo(data)


@pytest.mark.slow
@settings(LONG, max_examples=10 * LONG.max_examples)
@given(damaged())
def test_a_damaged_photo_is_a_picture_or_refused_at_length(data):
    check_photo(data)


def listed_images(folder):
    return create.create_from_images(create_config(
        command="create_from_images", source=folder, out=folder.parent / "out", resolution=8,
        num_val=0, num_test=0), lambda line: None)


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"\x1b[2J\n.jpg", b"\xc2\x9b1m.jpg",
                                  "Kleid-Größe-裙.jpg".encode(), b"-rf.jpg", b"%s{}.jpg"])
@pytest.mark.parametrize("data", [FILES[0], b"<html>"], ids=["good", "bad"])
def test_names_may_have_any_bytes(tmp_path, name, data):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(FILES[0])
    (folder / os.fsdecode(name)).write_bytes(data)
    content = listed_images(folder)
    left_out = [line["id"] for line in read_jsonl(tmp_path / "out" / "skipped.jsonl")]
    assert len(content["splits"]["train"]) + len(left_out) == 2


def test_a_photo_with_two_ids_keeps_the_first_id(tmp_path):
    """If it were in the set twice, it could be in both train and test."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(FILES[0])
    square = [[2, 2, 12, 2, 12, 22, 2, 22]]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({
        "images": [{"id": i, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}
                   for i in (8, 7)],
        "annotations": [{"image_id": i, "category_id": 1, "segmentation": square}
                        for i in (7, 8)]}))
    content = create.create_modanet(create_config(
        annotations=path, images=tmp_path / "images", out=tmp_path / "out", resolution=8,
        num_val=0, num_test=0), lambda line: None)
    assert content["splits"]["train"] == [7]
    assert read_jsonl(tmp_path / "out" / "skipped.jsonl") == []


@pytest.mark.parametrize("text, shown", [
    ("a\x1b[2J\nb", r"a\x1b[2J b"), ("\x9b1m", r"\x9b1m"), ("\u202egpj.exe", r"\u202egpj.exe"),
    ("\ud800", r"\ud800"), ("Größe 裙", "Größe 裙")])
def test_messages_cannot_control_a_terminal(text, shown):
    assert one_line(UserError(text)) == shown

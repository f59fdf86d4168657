"""ModaNet's files: Git LFS pointers in their place, other versions, images without polygons."""

import functools
import hashlib
import http.server
import json
import threading
import zipfile

import pytest

import dataset_tool
import train
from dataprep import raw_files
from dnnlib.data.dataset import open_dataset
from dnnlib.util import UserError
from tests.tools.data_helpers import (
    annotations_path,
    folder_bytes,
    make_source,
    photo_bytes,
    read_jsonl,
    save_annotations,
)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and records the requests."""

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve files in place of the annotations' address; `folder` is what is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.folder, server.asked = folder, []
        monkeypatch.setattr(raw_files, "ANNOTATIONS_URL",
                            f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source", 6)


def create(source, out, *options):
    from_folder = [] if "--images" in options else ["--source", source]
    command = ["create_modanet", *from_folder, "--out", out, "--resolution", 8,
               "--workers", 1, *options]
    return dataset_tool.main([str(part) for part in command])


def pointer_to(content, **changes):
    """Return Git LFS's pointer to a file."""
    said = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), **changes}
    return (f"version https://git-lfs.github.com/spec/v1\noid sha256:{said['oid']}\n"
            f"size {said['size']}\n").encode()


def test_a_pointer_is_replaced_by_its_file(source, server, tmp_path, capsys):
    path, content = annotations_path(source), annotations_path(source).read_bytes()
    (server.folder / path.name).write_bytes(content)
    path.write_bytes(pointer_to(content))
    create(source, tmp_path / "set")
    assert path.read_bytes() == content and server.asked == [f"/{path.name}"]
    assert "only a Git-LFS pointer, as a clone without git-lfs makes it" in capsys.readouterr().out


@pytest.mark.parametrize("changes, message", [
    ({"oid": "0" * 64}, "sha256 .* expected 0000"), ({"size": 7}, "expected 7: another file"),
    ({"oid": "none"}, "expected 105,924,292: another file")])
def test_a_pointers_download_is_checked(source, server, tmp_path, changes, message):
    """With the pointer's checksum or, if it is damaged, with those of ModaNet's published files."""
    path, content = annotations_path(source), annotations_path(source).read_bytes()
    (server.folder / path.name).write_bytes(content)
    pointer = pointer_to(content, **changes)
    path.write_bytes(pointer)
    with pytest.raises(UserError, match=message) as error:
        create(source, tmp_path / "set")
    assert f"fetch it by hand and put it at {path}" in str(error.value)
    assert path.read_bytes() == pointer and not list(path.parent.glob("*.part*"))


def test_pointers_that_cannot_be_fetched_are_explained(source, server, tmp_path):
    path = annotations_path(source)
    path.write_bytes(pointer_to(b"x"))
    with pytest.raises(UserError, match="HTTP 404"):
        create(source, tmp_path / "set")
    other = tmp_path / "mine.json"
    other.write_bytes(pointer_to(b"x"))
    with pytest.raises(UserError, match=r"mine\.json: only a Git-LFS pointer.*git lfs pull"):
        create(source, tmp_path / "set", "--annotations", other)
    assert server.asked == [f"/{path.name}"]


def test_only_the_default_folder_is_downloaded_by_default(source, server, tmp_path):
    annotations_path(source).unlink()
    with pytest.raises(UserError, match="no such file; fetch http"):
        create(source, tmp_path / "set")
    assert not server.asked


def test_another_version_is_a_warning(source, tmp_path, capsys):
    create(source, tmp_path / "set")
    assert f"warning: {annotations_path(source)} is none of ModaNet's published files" \
        in capsys.readouterr().out
    assert open_dataset(tmp_path / "set").splits["train"] == 5


def test_a_zip_of_photos_gives_the_same_records(source, tmp_path):
    create(source, tmp_path / "a" / "set")
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for path in sorted((source / "images").iterdir()):
            archive.write(path, f"modanet/photos/{int(path.stem)}.jpg")
    (source / "images").rename(source / "elsewhere")
    create(source, tmp_path / "b" / "set", "--workers", 2)
    records = {name: content for name, content in folder_bytes(tmp_path / "a").items()
               if name.endswith(("tfrecords", "jsonl", "dataset.json"))}
    assert records.items() <= folder_bytes(tmp_path / "b").items() and len(records) >= 4


@pytest.fixture
def listed(shared):
    """Return the original validation file."""
    return shared / "data" / "modanet_val" / raw_files.VAL_JSON


@pytest.fixture
def some_photos(listed, tmp_path, rng):
    """Make photos of the first 9 images of the validation file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for entry in json.loads(listed.read_text())["images"][:9]:
        (folder / f"{entry['id']:07d}.jpg").write_bytes(photo_bytes(rng, 40, 60))
    return folder


def test_the_published_validation_file_makes_untagged_data(listed, some_photos, tmp_path, capsys):
    ids = [entry["id"] for entry in json.loads(listed.read_text())["images"]]
    (some_photos / f"{ids[3]:07d}.jpg").write_bytes(b"")
    create(tmp_path, tmp_path / "set", "--untagged", "--annotations", listed,
           "--images", some_photos)
    printed = capsys.readouterr().out
    assert "warning" not in printed and "2799 images listed, 9 found without annotations" in printed
    info = open_dataset(tmp_path / "set")
    assert info.num_channels == 3 and info.splits == {"train": 8, "val": 0, "test": 0}
    written = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]["train"]
    assert sorted(written) == sorted(set(ids[:9]) - {ids[3]})
    reasons = {line["id"]: line["reason"] for line in read_jsonl(tmp_path / "set/skipped.jsonl")}
    assert set(written) | set(reasons) == set(ids) and not set(written) & set(reasons)
    assert list(reasons.values()).count("photo is missing") == 2790
    again = ("--untagged", "--annotations", listed, "--images", some_photos)
    create(tmp_path, tmp_path / "set", *again)
    assert "finished; nothing to do" in capsys.readouterr().out


def test_images_without_polygons_need_the_untagged_option(listed, some_photos, tmp_path):
    with pytest.raises(UserError, match=r"2799 images are listed, none has a polygon;.*--untagged"):
        create(tmp_path, tmp_path / "set", "--annotations", listed, "--images", some_photos)
    assert not (tmp_path / "set").exists()


def test_untagged_has_the_photos_not_in_the_labelled_set(source, tmp_path):
    """From one file with both kinds: every photo is in exactly one of the two sets."""
    content = json.loads(annotations_path(source).read_text())
    content["annotations"] = [entry for entry in content["annotations"]
                              if entry["image_id"] not in (8, 10)]
    save_annotations(source, content)
    create(source, tmp_path / "labelled", "--num-val", 0, "--num-test", 0)
    create(source, tmp_path / "untagged", "--untagged", "--annotations", annotations_path(source))
    ids = [set(json.loads((tmp_path / name / "dataset.json").read_text())["splits"]["train"])
           for name in ("labelled", "untagged")]
    assert ids == [{7, 9, 11, 12}, {8, 10}]
    reasons = [line["reason"] for line in read_jsonl(tmp_path / "untagged" / "skipped.jsonl")]
    assert len(reasons) == 4 and all(reason.startswith("annotated") for reason in reasons)


def test_each_kind_has_its_own_file_and_folder(source, tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (source / "images" / "0000099.jpg").write_bytes(photo_bytes(rng, 40, 60))
    listed = {"images": [{"id": 99, "file_name": "0000099.jpg", "width": 40, "height": 60}],
              "annotations": []}
    annotations_path(source).with_name(raw_files.VAL_JSON).write_text(json.dumps(listed))
    for options in ([], ["--untagged"]):
        dataset_tool.main(["create_modanet", "--source", str(source), "--resolution", "8",
                           "--workers", "1", *options])
    labelled, untagged = open_dataset("datasets/modanet"), open_dataset("datasets/modanet-untagged")
    assert labelled.num_channels == 16 and sum(labelled.splits.values()) == 6
    assert untagged.num_channels == 3 and sum(untagged.splits.values()) == 1


def test_training_uses_it_with_labelled_data(source, listed, some_photos, tmp_path, capsys):
    create(source, tmp_path / "labelled")
    create(tmp_path, tmp_path / "extra", "--untagged", "--annotations", listed, "--images",
           some_photos)
    options = ["--variant=2d", "--preset=demo-32", "--resolution=8", "--device=cpu", "--dry-run",
               f"--data={tmp_path / 'labelled'}", f"--untagged={tmp_path / 'extra'}"]
    assert train.main(options) == 0
    with pytest.raises(UserError, match="labelled"):
        train.main([*options, "--resolution=16"])

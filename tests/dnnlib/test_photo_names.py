"""The file of an image entry: found by its name, else by its number, with remarks."""

import unicodedata

import pytest

from dnnlib.data import photo_names
from dnnlib.data.photo_names import NameIndex

ACCENT = "caf\u00e9.png"
DECOMPOSED = unicodedata.normalize("NFD", ACCENT)
PLAIN = None


@pytest.mark.parametrize("names, image_id, file_name, key, said", [
    # The name decides, whatever the id is.
    (["1.png", "2.png"], 1, "2.png", "2.png", "file_name says 2.png, id 1 would take 1.png"),
    (["2.png"], 0, "2.png", "2.png", "file_name says 2.png, id 0"),
    (["x.jpg", "0000007.jpg"], 7, "x.jpg", "x.jpg", PLAIN),
    (["0000007.jpg"], 7, "0000007.jpg", "0000007.jpg", PLAIN),
    # The longest matching tail of the path first; a path from the root before a longer one.
    (["a/x.png", "b/x.png"], 5, "b/x.png", "b/x.png", PLAIN),
    (["a/x.png", "b/x.png"], 5, "C:\\data\\b\\x.png", "b/x.png", PLAIN),
    (["a/c/x.png", "b/c/x.png"], 5, "/home/me/b/c/x.png", "b/c/x.png", PLAIN),
    (["x.png", "a/x.png"], 5, "x.png", "x.png", PLAIN),
    (["x.png", "a/x.png"], 5, "a/x.png", "a/x.png", PLAIN),
    (["train/1.png", "test/1.png"], 2, "test/1.png", "test/1.png", "file_name says 1.png, id 2"),
    # In a folder with another name.
    (["photos/x.png"], 5, "train2017/x.png", "photos/x.png", "train2017/x.png: photos/x.png"),
    # Unicode, case and suffix.
    ([DECOMPOSED], 5, ACCENT, DECOMPOSED, PLAIN), ([ACCENT], 5, DECOMPOSED, ACCENT, PLAIN),
    (["IMG_b.png"], 5, "IMG_b.PNG", "IMG_b.png", "IMG_b.PNG: IMG_b.png is taken"),
    (["img.png"], 5, "img.jpg", "img.png", "img.jpg: img.png is taken"),
    (["a/Img.tiff", "b/img.tiff"], 5, "b/IMG.tif", "b/img.tiff", "IMG.tif: b/img.tiff is taken"),
    (["Stra\u00dfe.png"], 5, "STRASSE.PNG", "Stra\u00dfe.png", "is taken"),
    (["1.tif"], 1, "1.tif", "1.tif", PLAIN), (["0000001.tif"], 1, "", "0000001.tif", PLAIN),
    (["photo.xyz"], 5, "photo.xyz", "photo.xyz", PLAIN),
    # By number, like ModaNet's.
    (["9.jpg"], 9, "0000009.jpg", "9.jpg", PLAIN),
    (["9.png"], 9, "0000009.jpg", "9.png", "0000009.jpg: 9.png is taken"),
    (["9.jpg", "0000009.jpg"], 9, "0000009.jpg", "0000009.jpg", "id 9: 0000009.jpg, not 9.jpg"),
    (["9.jpg", "a/0000009.jpg"], 9, "", "a/0000009.jpg", "id 9: a/0000009.jpg, not 9.jpg"),
    (["9.jpg"], 9, "x.png", "9.jpg", "x.png, id 9: 9.jpg")])
def test_an_entrys_file_and_remarks(names, image_id, file_name, key, said):
    for order in (names, names[::-1]):
        found = NameIndex(order).find(image_id, file_name)
        assert found.key == key and found.reason is None
        if said is PLAIN:
            assert found.remarks == ()
        else:
            assert any(said in instance for _, instance in found.remarks)


@pytest.mark.parametrize("names, image_id, file_name, reason", [
    (["a/x.png", "b/x.png"], 5, "x.png", "ambiguous"),
    (["a/x.png", "b/x.png"], 5, "c/x.png", "ambiguous"),
    (["a/1.png", "b/1.png"], 1, "1.png", "ambiguous"),
    (["a.png", "a.jpg"], 5, "a.bmp", "ambiguous"), (["a.png", "A.PNG"], 5, "A.png", "ambiguous"),
    # A photo in another folder or with another number is not taken for the missing one.
    (["a/x.png", "b/y.png"], 5, "b/x.png", "missing"),
    (["a/7.png", "b/8.png"], 7, "b/7.png", "missing"),
    (["a/7.png", "b/8.png"], 7, "b/0007.png", "missing"),
    (["2.png"], 2, "3.png", "missing"), (["0000003.png"], 2, "3.png", "missing"),
    (["x.txt", "7.txt"], 7, "x.png", "missing"), (["x.png"], 5, "", "missing"),
    ([".x.png"], 5, ".x.png", "missing"), ([], 5, "x.png", "missing")])
def test_in_doubt_no_file_is_chosen(names, image_id, file_name, reason):
    for order in (names, names[::-1]):
        found = NameIndex(order).find(image_id, file_name)
        assert found.key is None and reason in found.reason


def test_only_the_same_name_is_exact():
    index = NameIndex(["x.png", "photos/y.png", "7.png"])
    exact = {name: index.find(7, name).exact
             for name in ("x.png", "a/x.png", "X.png", "b/y.png", "y.png", "7.png", "")}
    assert exact == {"x.png": True, "a/x.png": True, "X.png": False, "b/y.png": False,
                     "y.png": True, "7.png": True, "": False}


@pytest.mark.parametrize("asked", ["scene_{0}/rgb.png", "data/scene_{0}/RGB.jpg",
                                   "scene_{0}/0000007.png"])
def test_files_of_one_name_are_found_by_their_folders(monkeypatch, asked):
    names = [f"scene_{i}/{name}" for i in range(200) for name in ("rgb.png", "7.png")]
    index, calls, parts = NameIndex(names), [], photo_names._parts

    def count(name):
        calls.append(name)
        return parts(name)
    monkeypatch.setattr(photo_names, "_parts", count)
    for i in range(200):
        assert index.find(7, asked.format(i)).key.startswith(f"scene_{i}/")
    assert len(calls) < 5 * 200

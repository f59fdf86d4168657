"""Lists of class names, as people and other programs write them."""

import json

import pytest

from dnnlib.data.class_list import find_class, read_class_list, write_class_list
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError


def read(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_class_list(path)


@pytest.mark.parametrize("text, message", [
    ("", "0 classes"), ("\n" * 5, "0 classes"), ("# hat\n", "0 classes"), ("void\n", "0 classes"),
    ("a\nb\na", "'a' is given twice"), ("\n".join(f"c{i}" for i in range(256)), "256 classes"),
    ("[1, 2]", "list of names"), ("[\"a\"", "neither text in UTF-8 nor"), ("{}", "list of names"),
    ("a\x1b[2J", "no usable name"), ("x" * 101, "no usable name"), (b"\xff\xfe", "neither text"),
    ('["a", ""]', "class 2 has no usable name"), ('{"a": 1}', "list of names"),
    ("a #ff0000\nb", "'b' has no colour"), ("a #ff0000\nb #FF0000", "two names have .* #ff0000"),
    ("a:300,0,0::", "colour above 255"), ('{"categories": [{"id": 0, "name": "a"}]}', "ids 1 to 1"),
    ('{"categories": 3}', "list of names")])
def test_files_that_are_not_class_lists_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such file; write the class names"):
        read_class_list(tmp_path / "classes.txt")


@pytest.mark.parametrize("text, names", [
    ("\ufeffhat\r\n coat \r\nÄrmel\r\n", ["hat", "coat", "Ärmel"]),
    ("hat\n\n# of the upper body\ncoat\n\n\n", ["hat", "coat"]),
    ("1: hat\n2: coat\n", ["hat", "coat"]), ("1 hat\n2\tcoat", ["hat", "coat"]),
    ("house facade\nroad 66", ["house facade", "road 66"]), ("2 hat\ncoat", ["2 hat", "coat"]),
    ('["1 cent", "5 cents"]', ["1 cent", "5 cents"]),
    ('["hat", "#1", "coat #ff0000"]', ["hat", "#1", "coat #ff0000"]),
    ('{"info": {}, "categories": [{"id": 2, "name": "coat"}, {"id": 1, "name": "hat"}]}',
     ["hat", "coat"])])
def test_names_are_read(tmp_path, text, names):
    listed = read(tmp_path, text)
    assert list(listed.names) == names and not listed.colours and not listed.num_background()


def test_ignored_names_are_noted(tmp_path):
    assert read(tmp_path, "# a\nhat\n\n# b\ncoat\n\n").notes == ("comments (2)", "empty lines (1)")
    assert read(tmp_path, "0: void\n1: hat").notes == ("numbers (2)",)
    assert read(tmp_path, "hat\ncoat\n\n").notes == ()


@pytest.mark.parametrize("text", [
    "hat #ff0000\ncoat #00A0ff", '{"hat": "#ff0000", "coat": "#00a0ff"}',
    "# label:color_rgb:parts:actions\nhat:255,0,0::\ncoat:0, 160, 255:sleeve:\n",
    "hat:255,0,0\ncoat:0,160,255", "hat, #ff0000\ncoat,#00a0ff", "hat:#ff0000\ncoat = #00a0ff"])
def test_colours_are_read(tmp_path, text):
    listed = read(tmp_path, text)
    assert listed.names == ("hat", "coat") and listed.colours == (0xFF0000, 0x00A0FF)


@pytest.mark.parametrize("line, written", [
    ("rot ff0000", "rot #ff0000"), ("rot,ff0000", "rot #ff0000"), ("rot 0xFF0000", "rot #FF0000"),
    ("rot #f00", "rot #ff0000"), ("rot 255 0 0", "rot #ff0000"), ("rot, 255, 0, 0", "rot #ff0000"),
    ("dark red (200,0,10)", "dark red #c8000a"), ("ff0000 rot", "rot #ff0000"),
    ("#ff0000 rot", "rot #ff0000"), ("paper ffffff", "paper #ffffff"),
    ("1: rot ff0000", "1: rot #ff0000")])
def test_colours_in_other_forms_are_no_part_of_names(tmp_path, line, written):
    """They would be classes that no mask has, or comments."""
    for text in (line, f"{line}\nblau #0000ff"):
        with pytest.raises(UserError) as error:
            read(tmp_path, text)
        assert f"is a colour, write {written}; if it belongs to the name" in str(error.value)
    assert read(tmp_path, json.dumps([line, "blau"])).names == (line, "blau")


@pytest.mark.parametrize("text, names", [
    ("3: shoe\n2: bag\n1: hat", ["hat", "bag", "shoe"]),
    ("0: background\n1: hat\n2: bag\n3: shoe\n255: void", ["hat", "bag", "shoe"]),
    ("-1: __ignore__\n0 _background_\n1 hat", ["hat"]),
    ("255 void\n1 hat\n2 bag", ["hat", "bag"])])
def test_numbered_names_may_be_in_any_order(tmp_path, text, names):
    listed = read(tmp_path, text)
    assert list(listed.names[listed.num_background():]) == names


def test_the_ignored_label_is_no_class_and_keeps_its_colour(tmp_path):
    assert read(tmp_path, "1: hat\n255: void").notes == ("numbers (2)", "255: void")
    listed = read(tmp_path, "0: background #000000\n1: hat #ff0000\n255: void #e0e0c0")
    assert listed.names == ("void", "background", "hat") and listed.num_background() == 2
    assert listed.colours == (0xE0E0C0, 0, 0xFF0000)


@pytest.mark.parametrize("text", [
    "1: hat\n2: bag\n4: shoe", "2 hat\n3 coat", "0: background\n255: person", "1: hat\n1: bag",
    "1 cent\n2 cents\n5 cents", "-1: hat\n0: bag"])
def test_numbers_with_gaps_are_refused(tmp_path, text):
    with pytest.raises(UserError, match="leave some out or repeat some; list every number"):
        read(tmp_path, text)


def test_names_that_are_numbers_have_colours(tmp_path):
    for text in ("5 #ff0000\n7 #00ff00", "5:255,0,0::\n7:0,255,0::"):
        listed = read(tmp_path, text)
        assert listed.names == ("5", "7") and listed.colours == (0xFF0000, 0x00FF00)


@pytest.mark.parametrize("names, number", [
    (["_background_", "hat"], 1), (["Background", "hat"], 1), (["void", "hat"], 1),
    (["__ignore__", "_background_", "hat"], 2), (["__ignore__", "hat"], 1), (["bg", "ignore"], 1),
    (["hat", "background"], 0), (["backgrounds", "hat"], 0)])
def test_background_before_the_classes(tmp_path, names, number):
    assert read(tmp_path, "\n".join(names)).num_background() == number
    assert read(tmp_path, json.dumps(names)).num_background() == number


def test_numbers_say_which_names_come_before_the_classes(tmp_path):
    assert read(tmp_path, "0: void\n1: hat").num_background() == 1
    with pytest.raises(UserError, match="number 0 is 'nothing', but 0 is always the background"):
        read(tmp_path, "0: nothing\n1: hat")
    assert read(tmp_path, "1: background\n2: hat").num_background() == 0


@pytest.mark.parametrize("names", [
    MODANET_CLASSES, ("hat",), ("background", "hat"), ("1 euro", "2 euro"), ("#1", "# 2"),
    ("hat #ff0000", "coat"), ("hat:1,2,3::", "coat"), ("a::b:c",), ("[hat", "coat"),
    ("1: a", "2: b"), ("_background_", "#1"), ("2 cents", "5 cents"), ("0: void", "255: void"),
    ("a:300,0,0", "b"), ("3 piece suit",), ("part 100234", "#112233 b")])
def test_written_names_can_be_read_again(tmp_path, names):
    write_class_list(tmp_path, names)
    listed = read_class_list(tmp_path / "classes.txt")
    assert listed.names == names and not listed.colours and not listed.num_background()


def test_a_class_is_found_by_its_name_in_any_spelling():
    classes = ("scarf/tie", "C", "c++", "wheel", "++")
    assert [find_class(name, classes) for name in ("Scarf & Tie", "c++", "C", "WHEEL", "++")] == [
        "scarf/tie", "c++", "C", "wheel", "++"]
    for name, guess in (("weel", "; did you mean 'wheel'?"), ("c", "; did you mean 'C' or 'c++'?"),
                        ("xyz", ""), ("--", "")):
        with pytest.raises(UserError) as error:
            find_class(name, classes, "--require")
        assert str(error.value) == (f"--require: {name!r} is none of the classes "
                                    f"{', '.join(classes)}{guess}")


def test_plain_names_are_written_plainly(tmp_path):
    write_class_list(tmp_path, ("hat", "coat"))
    assert (tmp_path / "classes.txt").read_text() == "hat\ncoat\n"

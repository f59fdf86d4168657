"""Pickles read as data: content of official networks is read; hostile files do nothing."""

import collections
import functools
import operator
import os
import pathlib
import pickle
import struct
import subprocess

import numpy as np
import pytest

from dnnlib import safe_pickle
from dnnlib.safe_pickle import Record, is_pickle, read_array, read_pickle
from dnnlib.util import UserError
from tests.tools.official_files import EasyDict, Network, dumps, tiny_networks
from training.official import pickles as official_pickle

CLASSES = ("dnnlib.tflib.network.Network",)
PROTOCOLS = (2, 3, 4, 5)


def read(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    return read_pickle(path, CLASSES)


def text(value):
    """Return a SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def reference(module, name):
    """Return a STACK_GLOBAL, which accepts any text, dots included."""
    return text(module) + text(name) + b"\x93"


def opcodes(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


# ---------------------------------------------------------------------------- honest files


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back(tmp_path, protocol):
    value = ({"a": [1, -2, 3.5, None, True, 70000, 2**40], "b": ("x", "\u00e4", (), (1, 2, 3, 4))},
             collections.OrderedDict(z={}), EasyDict(k=[[]]), [("n", "n")] * 3)
    value += (b"\x00\xff",) if protocol > 2 else ()
    assert read(tmp_path, dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "|u1", "<i8", "|b1"])
def test_arrays_come_back(tmp_path, rng, protocol, dtype):
    full = (100 * rng.standard_normal((3, 4, 5))).astype(dtype)
    value = [full, np.asfortranarray(full), full[:, ::2], full[0, 0, 0], full.reshape(-1)]
    value += [full[:0]] if protocol > 2 else []
    for ours, theirs in zip(read(tmp_path, dumps(value, protocol)), value, strict=True):
        ours = read_array(ours)
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)


def test_names_of_numpy_before_and_since_its_second_version(tmp_path):
    content = dumps(np.arange(6, dtype=np.float32), 2)
    names = [b"numpy._core.multiarray", b"numpy.core.multiarray"]
    for name in names:
        for other in names:
            content = content.replace(other, name)
        assert read_array(read(tmp_path, content)).sum() == 15


def test_objects_are_records(tmp_path):
    record = read(tmp_path, dumps(Network({"version": 3})))
    assert isinstance(record, Record) and record.name == CLASSES[0]
    assert record.state == {"version": 3}


@pytest.mark.parametrize("value", ["x", 1.5, Network({"version": 3}), [np.zeros(1)], b"1234"])
def test_other_values_are_not_read_as_arrays(tmp_path, value):
    with pytest.raises(ValueError):
        read_array(read(tmp_path, dumps(value)))


@pytest.mark.parametrize("start, expected", [
    (b"\x80\x04\x95" + bytes(8), True), (b"\x80\x02}q\x00.", True), (b"\x80", True),
    (b"", False), (b"<html>", False), (b"\x80\x03\0\0\0\0\0\0{}", False), (b"\x80\x09}", False)])
def test_pickles_are_recognised_by_their_content(tmp_path, start, expected):
    """A safetensors file starts with the length of its header, then '{'."""
    (tmp_path / "x").write_bytes(start)
    assert is_pickle(tmp_path / "x") is expected


# ---------------------------------------------------------------------------- hostile files


class Call:
    """Pickles as the call of a function."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def trap(tmp_path):
    """Return (path of a file that must never exist, a shell command and Python that make it)."""
    path = tmp_path / "executed"
    return path, f"touch {path}", f"open({str(path)!r}, 'w').close()"


def hostile_calls(shell, python):
    """Return {text in the error: a value whose unpickling executes code}."""
    return {
        "posix.system": Call(os.system, (shell,)),
        "builtins.eval": Call(eval, (python,)), "builtins.exec": Call(exec, (python,)),
        "subprocess.Popen": Call(subprocess.Popen, (shell.split(),)),
        "functools.partial": Call(functools.partial, (os.system, shell)),
        "operator.attrgetter": Call(operator.attrgetter, ("__class__",)),
        "builtins.getattr": Call(getattr, (np.ndarray, "tofile")),
        "numpy.load": Call(np.load, (shell.split()[1],)),
        "io.open": Call(open, (shell.split()[1], "w")),
        "builtins.__import__": Call(__import__, ("os",)),
        "collections.defaultdict": collections.defaultdict(list),
        "copyreg._reconstructor": pickle.loads, "builtins.set": Call(set, ([1],)),
        "pathlib": pathlib.Path(shell.split()[1]),
    }


NAMES = sorted(hostile_calls("touch x", "1"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_functions_and_classes_are_refused_by_name(tmp_path, trap, name, protocol):
    path, shell, python = trap
    value = hostile_calls(shell, python)[name]
    if name == "copyreg._reconstructor":
        content = b"\x80\x02ccopyreg\n_reconstructor\n(cposix\nsystem\ncbuiltins\nobject\nNtR."
    else:
        content = dumps([value], protocol)
    with pytest.raises(UserError, match=f"refers to {name}.*nothing in them is executed"):
        read(tmp_path, content)
    assert not path.exists()


@pytest.mark.parametrize("name", ["posix.system", "builtins.exec"])
def test_these_files_execute_code_when_unpickled(trap, name):
    """The files of the test above are really dangerous."""
    path, shell, python = trap
    pickle.loads(dumps(hostile_calls(shell, python)[name]))
    assert path.exists()


@pytest.mark.parametrize("module, name", [
    ("dnnlib.tflib.network", "Network.__init__.__globals__"), ("dnnlib.util", "os.system"),
    ("dnnlib.util", "EasyDict.__class__"), ("numpy", "dtype.__class__.__subclasses__"),
    ("numpy", "f2py.os.system"), ("collections", "OrderedDict.fromkeys"), ("", ""),
    ("dnnlib.tflib.network", "network"), ("dnnlib.tflib.network.Network", ""),
    ("numpy.core.multiarray", "scalar.__self__"), ("_codecs", "decode"), ("os", "\x1b[2Jsystem")])
def test_dotted_names_are_refused(tmp_path, module, name):
    with pytest.raises(UserError, match="refers to ") as caught:
        read(tmp_path, opcodes(reference(module, name), b")\x81"))
    assert "\x1b" not in str(caught.value)


NETWORK, ARRAY = reference(*CLASSES[0].rsplit(".", 1)), reference("numpy.core.multiarray",
                                                                 "_reconstruct")
DTYPE = reference("numpy", "dtype") + text("f4") + b"\x89\x88\x87R"
ORDER = b"(K\x03" + text("<") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
EMPTY = ARRAY + reference("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
SMALL_ARRAY = EMPTY + b"(K\x01K\x01\x85" + DTYPE + ORDER + b"\x89C\x04\0\0\0\0tb"


def array_state(shape=b"K\x01\x85", dtype=DTYPE + ORDER, data=b"C\x04\0\0\0\0"):
    return EMPTY + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


MISUSE = {
    "called class": NETWORK + b")R", "arguments": NETWORK + text("x") + b"\x85\x81",
    "state of a class": NETWORK + b"}" + text("__init__") + b"Nsb",
    "slots of a class": NETWORK + b"N}" + text("__setstate__") + b"Ns\x86b",
    "slots of a dict's class": (reference("collections", "OrderedDict") + b"N}"
                                + text("__new__") + NETWORK + b"s\x86b"),
    "name of an object": NETWORK + b")\x81N}" + text("name") + text("numpy.dtype") + b"s\x86b",
    "state that is a list": NETWORK + b")\x81]b", "state of two parts": NETWORK + b")\x81N}\x86b",
    "state twice": NETWORK + b")\x81}b}b", "state of a dict": b"}}b", "state of a list": b"]}b",
    "state of text": text("x") + b"}b", "call of text": text("os.system") + b")R",
    "call of a dict": b"})R", "call of a record": NETWORK + b")\x81)R",
    "call with a list": reference("numpy", "dtype") + b"]R",
    "call of the array class": reference("numpy", "ndarray") + b")R",
    "new array": reference("numpy", "ndarray") + b")\x81",
    "new EasyDict with arguments": reference("dnnlib.util", "EasyDict") + b"}\x85\x81",
    "dict with arguments": reference("collections", "OrderedDict") + b"]\x85R",
    "append to a record": NETWORK + b")\x81Na", "append to a tuple": b")(NNe",
    "items of a record": NETWORK + b")\x81" + text("k") + b"Ns",
    "items of an array": EMPTY + b"NNs",
    "key without a value": b"}(" + text("k") + b"u", "key that is a tuple": b"})Ns",
    "key that is a reference": b"}" + NETWORK + b"Ns",
    "no mark": b"Nt", "mark at the end": b"(", "nothing": b"", "two values": b"NN",
    "memo that is empty": b"h\x05", "marked memo": b"(\x94", "stack underflow": b"\x87",
    "objects": reference("numpy", "dtype") + text("O8") + b"\x89\x88\x87R",
    "object arrays": array_state(dtype=reference("numpy", "dtype") + text("O") + b"\x89\x88\x87R"),
    "structured type": reference("numpy", "dtype") + text("V8") + b"\x89\x88\x87R",
    "type from a dict": reference("numpy", "dtype") + b"}\x89\x88\x87R",
    "type with fields": DTYPE + ORDER.replace(b"NNN", b"N}}"),
    "odd order": DTYPE + ORDER.replace(text("<"), text("?")),
    "too few bytes": array_state(shape=b"K\x02\x85"),
    "too many bytes": array_state(shape=b"K\x00\x85"),
    "negative side": array_state(shape=b"J\xff\xff\xff\xffJ\xfc\xff\xff\xff\x86"),
    "huge side": array_state(shape=b"\x8a\x09" + bytes(8) + b"\x01K\x00\x86", data=b"C\x00"),
    "shape of truth": array_state(shape=b"\x88\x85"), "no shape": array_state(shape=b"N"),
    "text for bytes": array_state(data=text("abcd")), "list for bytes": array_state(data=b"]"),
    "nine dimensions": array_state(shape=b"(" + b"K\x01" * 9 + b"t"),
    "type that is a reference": array_state(dtype=reference("numpy", "ndarray")),
    "array filled twice": SMALL_ARRAY + b"(K\x01K\x01\x85" + DTYPE + ORDER + b"\x89C\x04\0\0\0\0tb",
    "another first shape": ARRAY + reference("numpy", "ndarray") + b"K\x07\x85C\x01b\x87R",
    "array of another class": ARRAY + NETWORK + b"K\x00\x85C\x01b\x87R",
    "other encoding": reference("_codecs", "encode") + text("x") + text("rot13") + b"\x86R",
    "encoding of a list": reference("_codecs", "encode") + b"]" + text("latin1") + b"\x86R",
    "not latin1": reference("_codecs", "encode") + text("\u20ac") + text("latin1") + b"\x86R",
}
OTHER_OPCODES = {
    "persistent id": text("id") + b"Q", "text persistent id": b"Pid\n", "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00", "EXT4": b"\x84\x01\0\0\0", "INST": b"(iposix\nsystem\n",
    "OBJ": b"(" + NETWORK + b"o", "NEWOBJ_EX": NETWORK + b")}\x92", "set": b"\x8f",
    "frozenset": b"(\x91", "string": b"S'x'\n", "buffer": b"\x97", "long text": b"L1L\n",
    "DUP": b"N2", "float text": b"F1\n"}


def spliced(operations):
    """Return an official pickle in which `operations` make one of D's variables."""
    networks, _ = tiny_networks()
    networks[1].state["variables"][1] = ("FromRGB_lod0/weight", "PLACEHOLDER")
    content = dumps(tuple(networks), 3)  # without frames, whose lengths would have to fit
    placeholder = b"X\x0b\0\0\0PLACEHOLDER"
    assert content.count(placeholder) == 1
    return content.replace(placeholder, operations)


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_of_known_names_is_refused(tmp_path, case):
    """As a whole file and in place of an array; the stand-ins are unchanged afterwards."""
    before = {kind: dict(vars(kind)) for kind in (Record, safe_pickle._Dict)}
    (tmp_path / "x.pkl").write_bytes(spliced(MISUSE[case]))
    with pytest.raises(UserError, match=r"x\.pkl") as caught:
        official_pickle.read(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)
    with pytest.raises((UserError, ValueError)):
        read_array(read(tmp_path, opcodes(MISUSE[case])))
    for kind, attributes in before.items():
        assert dict(vars(kind)) == attributes


def test_a_correct_array_in_that_place_is_read(tmp_path):
    """So the values above are not refused because of the splice."""
    (tmp_path / "x.pkl").write_bytes(spliced(SMALL_ARRAY))
    arrays = official_pickle.read(tmp_path / "x.pkl")[1]["D_rgb"]
    assert arrays["FromRGB_lod0/weight"].shape == (1,)


@pytest.mark.parametrize("case", OTHER_OPCODES)
def test_other_opcodes_are_refused(tmp_path, case):
    with pytest.raises(UserError, match="which no official network does"):
        read(tmp_path, opcodes(OTHER_OPCODES[case]))


@pytest.mark.parametrize("case", ["too few bytes", "too many bytes"])
def test_sizes_are_checked_before_an_array_is_made(tmp_path, case):
    with pytest.raises(ValueError, match="4 bytes for an array of shape"):
        read_array(read(tmp_path, opcodes(MISUSE[case])))


def test_small_array_is_read(tmp_path):
    """The pieces of the hostile files are correct."""
    assert read_array(read(tmp_path, opcodes(SMALL_ARRAY))).shape == (1,)


@pytest.mark.parametrize("opcode, size", [
    (b"B", "<I"), (b"\x8e", "<Q"), (b"X", "<I"), (b"\x8d", "<Q"), (b"\x96", "<Q"), (b"\x8b", "<i")])
def test_announced_lengths_allocate_nothing(tmp_path, opcode, size):
    announced = struct.pack(size, 2**31 - 1 if size == "<i" else 2**32 - 1 if size == "<I"
                            else 10 * 2**30)
    with pytest.raises(UserError, match="damaged or cut short"):
        read(tmp_path, opcodes(opcode, announced, b"abc"))


def test_a_memo_far_away_allocates_nothing(tmp_path):
    """Python's unpickler would make room for four thousand million entries."""
    with pytest.raises(UserError, match="more than 30,000 operations"):
        read(tmp_path, opcodes(b"Nr\xff\xff\xff\x7f"))


@pytest.mark.parametrize("data", [b"C\xf0" + bytes(240), text("x" * 240) + text("latin1")])
def test_arrays_together_are_not_much_larger_than_the_file(tmp_path, data):
    """Two hundred arrays of the same bytes: each would be a separate copy in a network."""
    content = b"h\x00"
    if data[:1] != b"C":
        encode = reference("_codecs", "encode")
        data, content = text("x" * 240), encode + b"h\x00" + text("latin1") + b"\x86R"
    one = array_state(b"K\x3c\x85", dtype=b"h\x01", data=content)
    again = b"(" + one * 200 + b"t"
    start = data + b"\x940" + DTYPE + ORDER + b"\x940"
    one_array, *others = read(tmp_path, opcodes(start, again))
    assert read_array(one_array).shape == (60,)
    with pytest.raises(ValueError, match="larger than the file"):
        for other in others * 6:
            read_array(other)


DEEP = safe_pickle.MAX_OPERATIONS - 300
DEEP_FILES = {
    "lists": b"]" * (DEEP // 2) + b"a" * (DEEP // 2 - 1), "tuples": b"N" + b"\x85" * DEEP,
    "a tuple as a key": b"}N" + b"\x85" * DEEP + b"Ns",
    "states": (NETWORK + b"\x940" + b"h\x00)\x81" * (DEEP // 4)
               + b"b" * (DEEP // 4 - 1))}


@pytest.mark.parametrize("case", DEEP_FILES)
def test_deep_nesting_neither_recurses_nor_crashes(tmp_path, case):
    """At the greatest depth that is accepted: the whole file, an array, and an option."""
    read(tmp_path, opcodes(DEEP_FILES[case]))
    networks, _ = tiny_networks(D_kwargs={"resolution": "PLACEHOLDER"})
    content = dumps(tuple(networks), 3).replace(b"X\x0b\0\0\0PLACEHOLDER", b"%b")
    for damaged in (spliced(DEEP_FILES[case]),
                    content.replace(b"%b", DEEP_FILES[case])):
        (tmp_path / "x.pkl").write_bytes(damaged)
        with pytest.raises(UserError):
            official_pickle.read(tmp_path / "x.pkl")


def test_files_of_nested_tuples_alone_are_refused(tmp_path):
    """Python's unpickler would crash over a key of 200,000 nested tuples."""
    for content in (b"}N" + b"\x85" * 200_000 + b"Ns", b"]" * 200_000 + b"a" * 199_999):
        with pytest.raises(UserError, match="more than 30,000 operations"):
            read(tmp_path, opcodes(content))


def test_lists_of_the_same_lists_are_not_expanded(tmp_path):
    """Forty lists, each ten times in the next."""
    bomb = b"]\x94" + b"".join(b"](" + b"j%b" % struct.pack("<I", i) * 10 + b"e\x94"
                               for i in range(40))
    value = read(tmp_path, opcodes(bomb))
    with pytest.raises(ValueError):
        read_array(value)


def test_a_list_that_contains_itself(tmp_path):
    value = read(tmp_path, opcodes(b"]\x94h\x00a"))
    assert value[0] is value


def test_every_truncation_is_noticed(tmp_path):
    content = dumps(({"a": np.arange(3.0)}, Network({"x": (1, "y")})), 4)
    for length in range(2, len(content)):
        with pytest.raises(UserError):
            read(tmp_path, content[:length])


def test_random_damage_is_an_error_or_plain_data(tmp_path, rng):
    content = bytearray(dumps(({"a": np.arange(3.0)}, Network({"x": (1, "y")})), 4))
    refused = 0
    for _ in range(500):
        damaged = bytearray(content)
        for place in rng.integers(2, len(content), 2):
            damaged[place] = rng.integers(256)
        try:
            read(tmp_path, bytes(damaged))
        except UserError:
            refused += 1
    assert refused > 250


def test_files_that_are_too_large_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read(tmp_path, dumps(["x" * 20]))


def test_nothing_is_imported_for_a_file(tmp_path):
    """A refused module has not been loaded (its own code would have run)."""
    module = tmp_path / "evil_module.py"
    module.write_text("raise SystemExit('executed')")
    with pytest.raises(UserError, match="evil_module"):
        read(tmp_path, b"\x80\x02cevil_module\nx\n.")

"""Folders that a repeated command continues: what is refused, recorded, and forgotten."""

import errno
import json

import pytest

from dnnlib import util
from dnnlib.util import UserError
from generation.resumable_folder import content_digest, open_resumable

HOW = {"network": "n", "label": (0.5, 0.25), "settings": {"steps": 3}}


def opened(path, how=HOW):
    return open_resumable(path, "record.json", "photos", how, {"path": "x"})


def test_finished_work_is_recognised(tmp_path):
    """Also after a stop before anything was finished; tuples are lists in files."""
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "out") as folder:
        (folder.path / "a.png").write_bytes(b"1")
        (folder.path / ".a.png.7.tmp").write_bytes(b"torn")
        raise KeyboardInterrupt
    with opened(tmp_path / "out") as folder:
        assert not folder.done and not list(folder.path.glob(".*"))
        folder.done |= {"a": content_digest(folder.path / "a.png"), "b": None}
        folder.save()
    stored = json.loads((tmp_path / "out/record.json").read_text())
    assert stored == {"path": "x", "network": "n", "label": [0.5, 0.25], "settings": {"steps": 3},
                      "photos": {"a": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7"
                                      "875b4b", "b": None}}
    with opened(tmp_path / "out") as folder:
        file, gone = folder.path / "a.png", folder.path / "b.png"
        marks = {"a": content_digest(file), "b": content_digest(gone)}
        assert marks["b"] is None
        assert folder.begin("abc", str, marks.get, lambda name: [file]) == ["c"]
        assert folder.begin("b", str, marks.get, lambda name: [file, gone]) == ["b"]
        folder.done["b"] = None
        missing = folder.begin("abc", str, {"a": "another", "b": None}.get, lambda name: [])
        assert missing == ["a", "c"]
        stored = json.loads((tmp_path / "out/record.json").read_text())["photos"]
        assert stored == {"b": None}
        for part in folder.minibatches(missing, 1):
            folder.done[part[0]] = 1
    stored = json.loads((tmp_path / "out/record.json").read_text())["photos"]
    assert stored == {"b": None, "a": 1, "c": 1}


def test_the_record_is_written_at_intervals(tmp_path, monkeypatch):
    """Writing it after every photo would be quadratic; finished work is kept in any case."""
    written, write_json = [], util.write_json

    def write(*args):
        written.append(args)
        write_json(*args)
    monkeypatch.setattr(util, "write_json", write)
    monkeypatch.setattr("generation.resumable_folder._SAVE_SEC", 3600, raising=False)
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as folder:
        for number, in folder.minibatches(range(100), 1):
            if number == 90:
                raise KeyboardInterrupt
            folder.done[str(number)] = number
    assert len(written) == 2
    with opened(tmp_path) as folder:
        assert len(folder.done) == 90
    monkeypatch.setattr("generation.resumable_folder._SAVE_SEC", -1)
    with opened(tmp_path) as folder:
        before = len(written)
        for _ in folder.minibatches(range(5), 1):
            pass
        assert len(written) == before + 5


def test_other_options_are_refused(tmp_path):
    with opened(tmp_path) as folder:
        with pytest.raises(UserError, match="another process is writing into it"), opened(tmp_path):
            pass
        folder.done["a"] = 1
        folder.save()
    for changes, message in (
            ({"settings": {"steps": 4}}, r"photos made in another way \(settings.steps 3 there, 4 "
             r"now\); choose another folder or the same options"),
            ({"label": (0.5, 0.5)}, r"\(label \[0.5, 0.25\] there, \[0.5, 0.5\] now\)"),
            ({"new": 1}, r"\(new None there, 1 now\)")):
        with pytest.raises(UserError, match=message), opened(tmp_path, HOW | changes):
            pass
    with pytest.raises(UserError, match=r"disk is full.*; 1 photos are complete; free"), \
            opened(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    for content in ("[]", "{}", '{"photos": []}'):
        (tmp_path / "record.json").write_text(content)
        with pytest.raises(UserError, match=r"record.json: damaged; choose another folder"), \
                opened(tmp_path):
            pass


def test_other_files_are_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds files, but no record\.json; choose a new folder"), \
            opened(tmp_path):
        pass

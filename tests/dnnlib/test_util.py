"""Full disks, leftovers of killed processes, broken JSON."""

import errno

import pytest
import tensorflow as tf

from dnnlib.util import UserError, explain_disk_full, read_json, remove_leftovers


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    tf.errors.ResourceExhaustedError(None, None, "x.tfrecords; No space left on device")])
def test_a_full_disk_is_one_line_with_advice(error, tmp_path):
    with pytest.raises(UserError, match=r"full_disk.*: the disk is full \(.*\); make room$"), \
            explain_disk_full(tmp_path, lambda: "make room"):
        raise error


@pytest.mark.parametrize("error", [
    OSError(errno.ENOENT, "No such file"), ValueError("No space left on device"),
    tf.errors.ResourceExhaustedError(None, None, "out of the device's memory")])
def test_other_errors_are_unchanged(error, tmp_path):
    with pytest.raises(type(error)) as caught, explain_disk_full(tmp_path, lambda: "make room"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("text", ["{", "[" * 100_000, f'{{"a": {"9" * 5000}}}', "\ud800"])
def test_files_that_are_not_json_are_one_line(text, tmp_path):
    (tmp_path / "a.json").write_text(text, errors="surrogatepass")
    with pytest.raises(UserError, match=r"a\.json: not valid JSON \([^\n]+\)$"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text, reason", [
    ("", "an empty file: copy or download it again"), ("<html>404</html>", "a web page, not JSON"),
    ("version https://git-lfs.github.com/spec/v1\n", "only a Git-LFS pointer; fetch the file")])
def test_what_is_given_in_place_of_json_is_named(text, reason, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=rf"a\.json: not valid JSON \({reason}"):
        read_json(tmp_path / "a.json")


def test_leftovers_are_removed_by_pattern(tmp_path):
    for name in ("a/.x.json.7.tmp", ".x.json.7.tmp", "a/x.json", ".y.json.7.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, [".x.*.tmp", "*/.*.tmp", "nothing/*"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".y.json.7.tmp", "a", "x.json"]

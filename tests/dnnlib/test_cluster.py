"""The workers that the options or TF_CONFIG specify."""

import json

import pytest

from dnnlib.cluster import find_workers
from dnnlib.util import UserError

TWO = '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": %s}}'


@pytest.mark.parametrize("given, found", [
    ((None, None, None), (None, 0)),
    ((None, None, "{}"), (None, 0)),
    (("a:1,b:2", 1, None), (["a:1", "b:2"], 1)),
    ((None, None, TWO % 1), (["a:1", "b:2"], 1)),
    ((None, None, TWO % '"0"'), (["a:1", "b:2"], 0)),
    (("a:1", 0, None), (None, 0)),
    ((None, None, json.dumps({"cluster": {"chief": ["c:1"], "worker": ["a:1", "b:2"]},
                              "task": {"type": "worker", "index": 1}})),
     (["c:1", "a:1", "b:2"], 2))])
def test_workers_of_options_and_environment(given, found):
    assert find_workers(*given) == found


@pytest.mark.parametrize("given, words", [
    (("a:1,b:2", 2, None), "--worker-index=2: expected a number from 0 to 1"),
    (("a:1,b:2", -1, None), "expected a number from 0 to 1"),
    (("a:1,b:2", None, None), "--workers: needs --worker-index"),
    ((None, 0, None), "--worker-index: needs --workers"),
    (("a:1,b:2", 0, TWO % 0), "TF_CONFIG too"),
    (("a:1,a:1", 0, None), "a:1 is given twice"),
    (("a:1,b", 0, None), "'b': expected host:port"),
    (("a:1,b:0", 0, None), "'b:0': expected host:port"),
    (("", 0, None), "expected host:port"),
    ((None, None, "{cluster"), "TF_CONFIG: JSONDecodeError"),
    ((None, None, "[1]"), "TF_CONFIG: AttributeError"),
    ((None, None, '{"cluster": {"worker": ["a:1", "b:2"]}}'), "TF_CONFIG: KeyError: 'task'"),
    ((None, None, '{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}'),
     "TF_CONFIG: 1: expected host:port"),
    ((None, None, TWO % 5), "TF_CONFIG: there is no worker 5: it lists 2"),
    ((None, None, TWO % -1), "there is no worker -1"),
    ((None, None, TWO.replace('"worker", "i', '"chief", "i') % 1), "no chief 1: it lists 0"),
    ((None, None, '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": '
      '{"type": "ps", "index": 0}}'), "only tasks of type chief and worker")])
def test_wrong_workers_are_one_line(given, words):
    with pytest.raises(UserError) as caught:
        find_workers(*given)
    assert words in str(caught.value) and "\n" not in str(caught.value)

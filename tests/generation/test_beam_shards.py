"""Shards on Apache Beam are those of the serial command, to the byte."""

import shutil

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed (requirements-beam.txt)")

from dnnlib.util import UserError
from generation import beam_shards, shards
from generation.selection import Selection
from tests.generation.test_selection import CHOSEN, contents
from tests.generation.test_shards import job_in, network  # noqa: F401 (fixtures)

IN_MEMORY = ["--direct_running_mode=in_memory"]
TWO_PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

# Beam's own code, and that of what it imports.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning"),
              pytest.mark.filterwarnings("ignore::ResourceWarning"),
              pytest.mark.filterwarnings("ignore::FutureWarning"),
              pytest.mark.filterwarnings("ignore::UserWarning")]


def on_beam(job, options):
    return beam_shards.write_shards(job, *job.load(), "DirectRunner", options)


@pytest.mark.parametrize("options", [IN_MEMORY, TWO_PROCESSES], ids=["in memory", "two processes"])
@pytest.mark.parametrize("kind", ["folder", "tfrecords"])
def test_the_same_bytes_as_in_one_process(job_in, tmp_path, kind, options):  # noqa: F811
    """Also where a shard is there, and what a killed worker left."""
    serial, ours = (job_in(tmp_path / name / "set", kind, selection=CHOSEN, num=9, shards=4)
                    for name in ("serial", "beam"))
    tally = shards.write_shards(serial, *serial.load())
    shards.begin(ours, ours.load()[1])
    shutil.copytree(serial.place(2), ours.place(2))
    killed = ours.place(1).with_name(f".{ours.place(1).name}.0123.tmp")
    killed.mkdir()
    assert on_beam(ours, options) == tally
    assert contents(tmp_path / "beam") == contents(tmp_path / "serial")


def test_a_shard_that_cannot_be_made_ends_with_its_reason(job_in, tmp_path):  # noqa: F811
    job = job_in(tmp_path / "set", selection=Selection(("hat",), 0.99), num=4, shards=2,
                 max_tries=20)
    with pytest.raises(UserError, match="shard 0 of 2: 20 seeds in a row were rejected"):
        on_beam(job, IN_MEMORY)


def test_an_option_that_beam_would_ignore_is_refused(job_in, tmp_path):  # noqa: F811
    job = job_in(tmp_path / "set", num=4, shards=2)
    with pytest.raises(UserError, match="Beam knows no option --direct_num_worker"):
        on_beam(job, [*IN_MEMORY, "--direct_num_worker=2"])
    assert not job.place(0).exists()

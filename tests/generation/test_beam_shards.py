"""Shards on Apache Beam equal those of the serial command, to the byte."""

import pickle
import shutil

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed (requirements-beam.txt)")

from dnnlib import cli
from dnnlib.beam_runner import BeamRunner
from dnnlib.util import UserError
from generation import shards
from generation.selection import Selection
from tests.generation.test_selection import CHOSEN, contents
from tests.generation.test_shards import job_in, network  # noqa: F401 (fixtures)
from tests.tools.beam import IN_MEMORY, NOISE, kill_a_worker, processes, session, wait_until

pytestmark = [pytest.mark.slow, *NOISE]


def on_beam(job, options):
    return shards.write_shards(job, *job.load(), BeamRunner("DirectRunner", options))


@pytest.mark.parametrize("options", [IN_MEMORY, processes(2)], ids=["in memory", "two processes"])
@pytest.mark.parametrize("kind", ["folder", "tfrecords"])
def test_the_same_bytes_as_in_one_process(job_in, tmp_path, kind, options):  # noqa: F811
    """Also if a shard exists, or a killed worker left files."""
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


def begin(job):
    """Make shards with two workers; for a separate process."""
    cli.run_main(lambda _: on_beam(job, processes(2)) and None)


@pytest.mark.parametrize("killed", ["worker", "all"])
def test_killed_and_continued(job_in, tmp_path, killed):  # noqa: F811
    """With another number of workers, which do not repeat finished work."""
    serial, ours = (job_in(tmp_path / name / "set", num=200, shards=50)
                    for name in ("serial", "beam"))
    shards.write_shards(serial, *serial.load())
    (tmp_path / "job").write_bytes(pickle.dumps(ours))
    code = ("import pickle, sys; from tests.generation import test_beam_shards\n"
            "test_beam_shards.begin(pickle.load(open(sys.argv[1], 'rb')))")

    def done():
        return [index for index in range(50) if (ours.place(index) / shards.STATISTICS).exists()]
    with session(code, tmp_path / "job") as process:
        wait_until(done, process)
        if killed == "worker":
            kill_a_worker(process)
            error = process.communicate(timeout=200)[1].decode()
            assert process.returncode == 2 and "error: a worker process died" in error
    times = {index: ours.place(index).stat().st_mtime_ns for index in done()}
    assert 0 < len(times) < 50 and not (tmp_path / "beam" / "set" / "dataset.json").exists()
    on_beam(ours, IN_MEMORY if killed == "all" else processes(3))
    assert all(ours.place(index).stat().st_mtime_ns == time for index, time in times.items())
    assert contents(tmp_path / "beam") == contents(tmp_path / "serial")

"""Write pairs in shards, whose bytes depend on the seeds and options alone.

    OUT/shard-00007-of-00100/          a folder as generation.pairs writes it; or, for a data set,
    OUT/train/shard-00007-of-00100/    train-r02.tfrecords ..., samples.jsonl, counts.jsonl
    OUT/shards.json                    the job
    OUT/dataset.json, ...              for a data set; dataset.json is written last

Shard i of n tries every n-th seed from the i-th on, BLOCK at a time. It is written under another
name and renamed when it is complete, so that the same command, run again, makes only the missing
shards. It does not matter which process makes a shard, how often it starts, or in which order.
"""

import contextlib
import functools
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataprep import writer
from dataprep.conversion import ConversionSpec, convert_image
from dnnlib import util
from dnnlib.cli import MAX_SEED
from dnnlib.data import tfrecords
from dnnlib.util import UserError
from generation import pairs
from generation.resumable_folder import refuse_difference, refuse_strange_files
from generation.selection import (
    GaveUpError,
    Request,
    SampleRecipe,
    Selection,
    Tally,
    make_samples,
    sum_tallies,
)
from training.sampler import Sampler

if TYPE_CHECKING:  # it imports Apache Beam, which need not be installed
    from dnnlib.beam_runner import BeamRunner

JOB, STATISTICS = "shards.json", "shard.json"
PAIRS_A_SHARD = 1000  # in a data set, if the number of shards is not given
_SPLIT, _COUNTS, _ENCODING = "train", "counts.jsonl", "webp"


@dataclass(frozen=True)
class ShardJob:
    """A job to be made in shards; it is sent to workers.

    Attributes:
        network: path of the snapshot.
        label: label that a conditional network draws.
        kind: "folder" or "tfrecords".
        num: pairs in all shards together.
        selection, max_tries: as in Request.
    """

    network: str
    label: int | tuple | None
    trunc: float
    noise: str
    keep_padding: bool
    min_region: int
    kind: str
    out: str
    first_seed: int
    num: int
    shards: int
    selection: Selection | None
    max_tries: int

    def load(self) -> tuple[Sampler, SampleRecipe]:
        """Return the network and the recipe of its samples."""
        sampler = Sampler.load(self.network, self.label)
        return sampler, self.make_recipe(sampler)

    def make_recipe(self, sampler: Sampler) -> SampleRecipe:
        """Return the recipe of the network's samples."""
        keep_padding = self.keep_padding or self.kind == "tfrecords"
        return pairs.make_recipe(sampler, self.trunc, self.noise, keep_padding, self.min_region)

    def request(self, index: int) -> Request:
        """Return the request of one shard."""
        all_of_it = range(self.first_seed + index, self.first_seed + self.num, self.shards)
        endless = range(self.first_seed + index, MAX_SEED + 1, self.shards)
        return Request(endless if self.selection else all_of_it, len(all_of_it),
                       selection=self.selection, max_tries=self.max_tries,
                       title=f"shard {index + 1}/{self.shards}")

    def place(self, index: int) -> Path:
        """Return the folder of one shard."""
        folder = Path(self.out, _SPLIT) if self.kind == "tfrecords" else Path(self.out)
        return folder / tfrecords.shard_name(index, self.shards)

    def identity(self, recipe: SampleRecipe) -> dict:
        """Return everything that determines the bytes of all shards."""
        return {"format": self.kind, "num": self.num, "shards": self.shards,
                "first_seed": self.first_seed, **asdict(recipe),
                **asdict(self.selection or Selection())}


def write_shards(job: ShardJob, sampler: Sampler, recipe: SampleRecipe,
                 runner: "BeamRunner | None" = None) -> Tally | None:
    """Write all missing shards of a job, in this process or by workers of a `runner` that see the
    same folder and the same network file, and finish; return the tally of its selection.

    Raises UserError as `pairs.write_pairs` does.
    """
    with (util.lock_directory(job.out, "making these pairs"),
          util.explain_disk_full(job.out, lambda: "free some space and run the same command "
                                 "again: it continues")):
        begin(job, recipe)
        if runner is not None:
            runner.run(functools.partial(_start_worker, job), range(job.shards))
        else:
            for index in range(job.shards):
                line = write_shard(job, sampler, recipe, index)
                if "error" in line:
                    raise UserError(line["error"])
        return finish(job, sampler, recipe)


def _start_worker(job):
    """Return the function index -> shard, with the network loaded."""
    return functools.partial(write_shard, job, *job.load())


def begin(job: ShardJob, recipe: SampleRecipe) -> None:
    """Make the output folder ready. Raises UserError if it holds something else."""
    out, path = Path(job.out), Path(job.out, JOB)
    if path.exists():
        refuse_difference(out, util.read_json(path), job.identity(recipe), "samples made")
    else:
        refuse_strange_files(out, JOB)
    util.write_json(path, job.identity(recipe))
    job.place(0).parent.mkdir(exist_ok=True)
    _remove_leftovers(job)


def _remove_leftovers(job):
    """Remove the files that killed processes left; they may have been killed at any time."""
    for left in job.place(0).parent.glob(".shard-*.tmp"):
        shutil.rmtree(left)


def write_shard(job: ShardJob, sampler: Sampler, recipe: SampleRecipe, index: int) -> dict:
    """Write one shard if it does not exist, and return its line of statistics; {"shard", "error"}
    if it cannot be made. A shard that gave up is tried again only with a larger `max_tries`."""
    place, request = job.place(index), job.request(index)
    if (place / STATISTICS).exists():
        return util.read_json(place / STATISTICS)
    failure = place.with_suffix(".failed.json")
    if failure.exists() and util.read_json(failure)["max_tries"] >= job.max_tries > 0:
        return util.read_json(failure)
    work = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        line = {"shard": index, "pairs": request.num,
                **_WRITERS[job.kind](sampler, recipe, request, work)}
        util.write_json(work / STATISTICS, line)
        try:
            os.rename(work, place)
        except OSError:
            if not (place / STATISTICS).exists():  # else another process has made the shard
                raise
        failure.unlink(missing_ok=True)
    except UserError as error:
        line = {"shard": index, "error": f"shard {index} of {job.shards}: {error}",
                "max_tries": job.max_tries if isinstance(error, GaveUpError) else 0}
        shutil.rmtree(work, ignore_errors=True)  # on a full disk, makes room for the line
        util.write_json(failure, line)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return line


def finish(job: ShardJob, sampler: Sampler, recipe: SampleRecipe) -> Tally | None:
    """Check that all shards exist, describe the data set, and return the tally of the selection.
    Raises UserError if a shard is missing."""
    tallies = []
    for index in range(job.shards):
        place = job.place(index)
        if not (place / STATISTICS).exists():
            failure = place.with_suffix(".failed.json")
            reason = util.read_json(failure)["error"] if failure.exists() else \
                f"shard {index} of {job.shards} is missing; run the same command again"
            raise UserError(f"{job.out}: {reason}")
        line = util.read_json(place / STATISTICS)
        tallies.append(Tally(**{name: line[name] for name in asdict(Tally()) if name in line}))
    _remove_leftovers(job)
    if job.kind == "tfrecords":
        _write_description(job, sampler, recipe)
    return sum_tallies(tallies) if job.selection else None


def _write_folder(sampler, recipe, request, work):
    *_, tally = pairs.write_pairs(sampler, recipe, request, work)
    return asdict(tally) if tally else {}


# A data set

def write_records(sampler: Sampler, recipe: SampleRecipe, request: Request,
                  work: Path) -> dict:
    """Write a shard of a data set into a new folder `work`; return its statistics."""
    work.mkdir()
    box = sampler.content_box  # it has the photos' size, from which networks know the padding
    size = (box[2] - box[0], box[3] - box[1]) if box else ()
    tally = Tally() if request.selection else None
    batches = make_samples(sampler, recipe, request, tally=tally)

    def convert(pair: pairs.Pair) -> tuple:
        return (pairs.make_record(pair, sampler, recipe, {}),
                convert_image(_to_image(pair, len(sampler.classes)), _ENCODING, size))

    with util.explain_disk_full(work.parent, lambda: "free some space and run the same command "
                                "again: it continues"), contextlib.ExitStack() as stack:
        files = {level: stack.enter_context(open(work / f"{_SPLIT}-r{level:02d}.tfrecords", "wb"))
                 for level in range(tfrecords.MIN_LEVEL, sampler.resolution.bit_length())}
        bar = stack.enter_context(util.progress(total=request.num, desc=request.title,
                                                unit="img"))
        for batch, made in pairs.write_behind(batches, sampler, recipe, convert):
            for record, converted in made:
                for level, data in converted.records.items():
                    files[level].write(data)
                util.append_jsonl(work / pairs.SAMPLES, record)
                util.append_jsonl(work / _COUNTS, {
                    "id": record["seed"], "digest": converted.digest.hex(),
                    "shares": converted.shares, "size": converted.size})
            bar.update(len(made))
            tally = batch.tally
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if tally is None:
        return {}
    request.check_found(tally, sampler.classes)
    return asdict(tally)


def _to_image(pair, num_classes):
    """Return a pair as an image of a data set, uint8 [3 + C, H, W]; maps are 0 or 255."""
    labels = np.arange(1, num_classes + 1)[:, None, None]
    segmaps = (pair.label_map == labels).astype(np.uint8) * np.uint8(255)
    return np.concatenate([pair.rgb.transpose(2, 0, 1), segmaps])


def _write_description(job, sampler, recipe):
    """Write dataset.json and the files beside it, from the shards' counts."""
    spec = ConversionSpec(None, sampler.classes, sampler.resolution, "pad", _ENCODING)
    counts = writer.DatasetCounts(spec.classes, spec.resolution, spec.label_size, writer.SPLITS)
    for index in range(job.shards):
        with open(job.place(index) / _COUNTS, encoding="utf-8") as file:
            for line in map(json.loads, file):
                counts.add(_SPLIT, line["id"], bytes.fromhex(line["digest"]), line["shares"],
                           size=line["size"])
    util.atomic_write(Path(job.out, writer.SKIPPED), "")
    writer.write_description(Path(job.out), spec, counts,
                             {"command": "generate", "fit": spec.fit, **job.identity(recipe)}, 0)


_WRITERS = {"folder": _write_folder, "tfrecords": write_records}

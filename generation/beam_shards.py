"""Write shards on Apache Beam: the element is a shard, which any worker makes alone.

    Create(numbers of shards) | Reshuffle | ParDo(OneShard) -> a line of statistics each

Workers and the process that starts them see the same folder and the same network file.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

# As the scripts do before TensorFlow is imported: other convolutions round otherwise.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from dnnlib import util
from dnnlib.util import UserError
from generation import shards
from generation.pairs import SampleRecipe
from generation.selection import Tally
from training.sampler import Sampler

_ROOT = Path(__file__).resolve().parents[1]


class OneShard(beam.DoFn):
    """Write one shard as the serial command does, with a network that is loaded once."""

    def __init__(self, job: shards.ShardJob) -> None:
        self.job = job

    def setup(self) -> None:
        """Load the network."""
        self.sampler, self.recipe = self.job.load()

    def process(self, index: int) -> Iterator[dict]:
        """Yield the shard's line of statistics."""
        yield shards.write_shard(self.job, self.sampler, self.recipe, index)


def write_shards(job: shards.ShardJob, sampler: Sampler, recipe: SampleRecipe, runner: str,
                 options: Sequence[str]) -> Tally | None:
    """Do as `generation.shards.write_shards` on one of Beam's runners, which gets its `options`.

    Raises UserError if a shard cannot be made, or the runner or one of its options is unknown.
    """
    pipeline_options = PipelineOptions([f"--runner={runner}", *options])
    unknown = (pipeline_options.get_all_options(retain_unknown_options=True).keys()
               - pipeline_options.get_all_options().keys())
    if unknown:  # Beam itself ignores it
        raise UserError(f"--: Beam knows no option --{sorted(unknown)[0]}")
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), path]))  # of workers
    with util.only_process(job.out, "making these pairs"):
        shards.begin(job, recipe)
        with beam.Pipeline(options=pipeline_options) as pipeline:
            numbers = pipeline | beam.Create(list(range(job.shards))) | beam.Reshuffle()
            numbers | beam.ParDo(OneShard(job))
        return shards.finish(job, sampler, recipe)

"""Run directories: which one a command continues, and that one process at a time works in it."""

from pathlib import Path

from dnnlib import util
from dnnlib.util import UserError
from training.config import TrainingConfig

OPTIONS = "training_options.json"
FINAL = "network-final.safetensors"


def find_run(run, results_dir, record):
    """The directory that a training with the options `record` continues, or None.

    Args:
        run: the directory asked for, or None: then the newest unfinished run of `results_dir` that
            was started with the same options.

    Raises UserError where `run` was started with other options, listing the differences.
    """
    record = _complete(_as_json(record))
    if run is None:
        for path in reversed(util.list_runs(results_dir)):
            if not (path / FINAL).is_file() and (path / OPTIONS).is_file() \
                    and _stored_options(path / OPTIONS) == record:
                return path
        return None
    stored = Path(run) / OPTIONS
    if not stored.is_file():
        return None
    old = _stored_options(stored)
    if old is None:
        raise UserError(f"{stored}: damaged: not a set of options; give another --run")
    differences = [f"{key}: {old.get(key)} there, {record.get(key)} now"
                   for key in sorted(old.keys() | record.keys()) if old.get(key) != record.get(key)]
    if differences:
        raise UserError(f"{run} was started with other options ({'; '.join(differences)}); give "
                        "the same ones to continue it, or another --run")
    return Path(run)


def make_run(run, results_dir, description, record):
    """Make the directory asked for, or the next numbered one, with its options in it."""
    if run is None:
        path = util.create_run_dir(results_dir, description)
    else:
        path = Path(run)
        path.mkdir(parents=True, exist_ok=True)
    util.write_json(path / OPTIONS, record)
    return path


def _stored_options(path):
    """The options in a file, or None where it holds something else."""
    options = util.read_json(path)
    return _complete(options) if isinstance(options, dict) else None


def _complete(record):
    """The record with the defaults of options that came into being after it was written."""
    return {**_as_json(TrainingConfig().to_json()), **record}


def _as_json(record):
    """The record as it comes back from a JSON file, where the keys of tables are strings."""
    return {name: {str(k): v for k, v in value.items()} if isinstance(value, dict) else value
            for name, value in record.items()}

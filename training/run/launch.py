"""From a command line to a run: its options, its directory, and its record."""

import argparse
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from dnnlib import util
from dnnlib.tflib.distribute import all_gather, has_other_workers, is_chief, report_losses
from dnnlib.util import UserError
from training.method_config import MethodConfig
from training.run import directory
from training.run.job import Job
from training.state import list_states
from training.variants import CONFIGS

DEFAULTS = {"device": "gpu", "gpus": 1, "keep": 2, "inception": None}


def choose_config(options: argparse.Namespace, given: dict[str, Any]) -> MethodConfig:
    """Return the config of a command, and complete its options.

    An existing --run keeps its own options wherever the command gives none. With --preset, all of
    them come from the preset and the command.

    Args:
        options: options of train.py, with `config_class`. `run` becomes a path; `preset`,
            `init_from` and those in LAUNCH get their final values; `continues` is added: True if
            the options are those of an existing run.
        given: {field of the config: value} for the fields that the user has given.

    Raises:
        UserError: --run alone names no run, or the run's data set is no longer where it was.
    """
    options.run = directory.named_run(options.run, options.results)
    stored = directory.stored_options(options.run)
    if options.run and stored is None and not given and options.preset is None:
        raise UserError(f"--run={options.run}: no run there to continue; give a new one the "
                        "options of its training too, such as --variant or --data")
    if stored and CONFIGS[stored["variant"]] is not options.config_class:
        raise UserError(f"{options.run}: a training of --variant={stored['variant']}; give it, or "
                        "another --run")
    options.continues = stored is not None and options.preset is None
    for name in directory.LAUNCH:
        if getattr(options, name) is None:
            value = stored.get(name) if options.continues else None
            setattr(options, name, DEFAULTS[name] if value is None else value)
    if not options.continues:
        options.preset = options.preset or options.config_class.default_preset
        return options.config_class.preset(options.preset, given)
    options.init_from = options.init_from or stored.get("init_from")
    fields = {f.name: f for f in dataclasses.fields(options.config_class)}
    for name in ("data", "data2", "target", "untagged"):
        path = stored.get(name) if name in fields.keys() - given.keys() else None
        if path and not Path(path).is_dir():
            flag = fields[name].metadata.get("flag", name)
            raise UserError(f"{options.run}: the folder of its --{flag}, {path}, does not exist as "
                            f"seen from this directory; give its current path with --{flag}")
    own = {name: value for name, value in stored.items() if name in fields}
    if "mirror" in given and given["mirror"] != own.get("mirror"):
        own.pop("mirror_pairs", None)  # the stored pairs follow from the old value of mirror
    return options.config_class.from_json(own | given)


def run_record(job: Job) -> dict[str, Any]:
    """Return what is stored as a run's options, by which the same command finds the run again."""
    options = job.options
    return {**job.config.to_json(), "init_from": options.init_from,
            "data_digest": job.dataset.digest, **job.digests(),
            **{name: getattr(options, name) for name in directory.LAUNCH}}


def print_plan(job: Job) -> None:
    """Print which run a command would make or continue, the job's notes and its plan."""
    options = job.options
    run_dir = directory.find_run(options.run, options.results, run_record(job), options.override)
    if run_dir is None:
        print(f"would make a new run: {options.run or f'the next number in {options.results}'}")
    else:
        states = list_states(run_dir)
        print(f"would continue {run_dir}, from {states[-1].name if states else 'its beginning'}")
    print(*job.notes, job.plan(), sep="\n")


@contextlib.contextmanager
def open_run(strategy: tf.distribute.Strategy,
             job: Job) -> Iterator[tuple[Path, logging.Logger]]:
    """Make or continue a run, lock its directory, and yield (path, log).

    Only the first worker finds it, locks it and writes its log; the others get its path.

    Raises:
        UserError: the run is in use, was started with other options, or is not visible to a worker.
    """
    options, record, run_dir = job.options, run_record(job), None
    with contextlib.ExitStack() as stack:
        if is_chief(strategy):
            run_dir = directory.find_run(options.run, options.results, record, options.override)
            if run_dir is None:
                description = f"{job.config.variant}-{job.dataset.name}-{job.config.resolution}"
                run_dir = directory.make_run(options.run, options.results, description, record)
            stack.enter_context(util.lock_directory(run_dir, "training in it"))
        if has_other_workers(strategy):
            run_dir = _wait_until_visible(
                all_gather(strategy, str(run_dir and run_dir.resolve()))[0])
        log = util.start_log("training", run_dir / "log.txt" if is_chief(strategy) else None)
        report_losses(strategy, log.info)
        log.info(f"run directory {run_dir}")
        try:
            if options.override and is_chief(strategy):
                directory.adopt_options(run_dir, record, log)
            yield run_dir, log
        except Exception as error:  # run_main prints it on the terminal
            util.log_to_file(log, f"error: {util.one_line(error)}")
            raise


def _wait_until_visible(path, timeout_sec=60):
    """Return the path of a directory that the first worker has just made, once this machine sees
    it: a shared file system may show it late."""
    deadline = time.monotonic() + timeout_sec
    while not Path(path).is_dir():
        if time.monotonic() > deadline:
            raise UserError(f"{path}: the run directory of worker 0 is not visible on this "
                            "machine; all workers must see the same one (a shared file system): "
                            "give --run or --results there")
        time.sleep(0.2)
    return Path(path)

"""Run directories: which one a command continues, what a continued one is cleared of, and why one
cannot go on."""

import contextlib
import errno
import os
from pathlib import Path

import tensorflow as tf

from dnnlib import util
from dnnlib.data import mirroring
from dnnlib.util import UserError
from training.config import TrainingConfig, as_option, as_text
from training.run.history import FINAL, GIVEN_UP, OPTIONS, STATS
from training.snapshots import list_states, remove_states_of_skips
from training.state import NETWORK_OPTIONS

# What a training cannot change on its way: its networks, and where it stands in the schedule.
FIXED = {"variant", "initial_resolution", "hold_kimg", "fade_kimg", "init_from", "data_digest",
         *NETWORK_OPTIONS}
# What runs did before an option existed, where that is not its default.
_BEFORE = {"mirror_pairs": mirroring.NONE}
# Options whose defaults follow from the data set, by other rules since `_BEFORE` came into being.
_DERIVED = {"mirror_pairs", "metrics"}
_OWN_FILES = ("training-state-", "network-", "nonfinite", "best.json", "fakes", "reals", "index")


def find_run(run, results_dir, record, override=False):
    """The directory that a training with the options `record` continues, or None.

    Args:
        run: the directory asked for, or None: then the newest unfinished run of `results_dir` that
            was started with the same options.
        override: go on although options differ.

    Raises UserError where `run` was started with other options, listing the differences (with
    `override`, those that cannot change), and where the same options would lead a run that was
    given up to the same end.
    """
    if run is not None and (not str(run) or Path(run).is_file()):
        raise UserError(f"--run={run}: expected the name of a directory")
    if run is None:
        if override:
            raise UserError("--override: needs --run, the run directory to continue with other "
                            "options")
        run = _newest_alike(results_dir, _complete(_as_json(record)))
        if run is None:
            return None
    changes = changed_options(run, record)
    if changes is None and override:
        raise UserError(f"--override: {run} holds no run to continue; leave it out to make one")
    if changes is None:
        return None
    told = "; ".join(changes.values())
    if changes and not override:
        raise UserError(f"{run} was started with other options ({told}); give the same ones to "
                        f"continue it, --run={run} --override to go on with the new ones, or "
                        "another --run to begin anew")
    fixed = [changes[name] for name in changes if name in FIXED]
    if fixed:
        raise UserError(f"{run}: --override cannot change these ({'; '.join(fixed)}); give them as "
                        "they were, or another --run")
    if (Path(run) / GIVEN_UP).is_file() and not override:
        raise UserError(given_up_line(run))
    return Path(run)


def _newest_alike(results_dir, record):
    """The newest unfinished run with these options, or None.

    Also one of an earlier version that differs in derived options alone: whether it goes on as it
    was, is for its owner to say.
    """
    for path in reversed(util.list_runs(results_dir)):
        if (path / FINAL).is_file() or not (path / OPTIONS).is_file():
            continue
        stored = util.read_json(path / OPTIONS)
        changed = _changed(_complete(stored), record) if isinstance(stored, dict) else {None}
        if not changed or (changed <= _DERIVED and not _BEFORE.keys() <= stored.keys()):
            return path
    return None


def _changed(old, new):
    """The names of options that differ."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def changed_options(run, record):
    """{name: 'name: old there, new now'} of options that differ; None where `run` has none stored.

    Raises UserError where they are damaged.
    """
    stored = Path(run) / OPTIONS
    if not stored.is_file():
        return None
    old, new = _stored_options(stored), _complete(_as_json(record))
    if old is None:
        raise UserError(f"{stored}: damaged: not a set of options; give another --run")
    return {key: f"{key}: {as_text(old.get(key))} there, {as_text(new.get(key))} now"
            for key in sorted(_changed(old, new))}


def take_over(run_dir, record, log):
    """Go on with other options than a run was started with: they are its options from now on.

    A run that was finished, and is perhaps longer now, has its end before it again; the networks
    that were its last ones are in its last snapshot too.
    """
    for change in (changed_options(run_dir, record) or {}).values():
        log.info(f"going on with other options: {change}")
    util.write_json(run_dir / OPTIONS, record)
    for name in (GIVEN_UP, FINAL):
        (run_dir / name).unlink(missing_ok=True)


def make_run(run, results_dir, description, record):
    """Make the directory asked for, or the next numbered one, with its options in it."""
    if run is None:
        path = util.create_run_dir(results_dir, description)
    else:
        path = Path(run)
        path.mkdir(parents=True, exist_ok=True)
    util.write_json(path / OPTIONS, record)
    return path


def tidy(run_dir, told_bytes):
    """Take away what a killed process left: unfinished files of its own, and lines of stats.jsonl
    of what will be done and told again.

    told_bytes: length of stats.jsonl when the state was saved; None leaves it.
    """
    for path in Path(run_dir).glob(".*.tmp"):
        if path.name[1:].startswith(_OWN_FILES):
            path.unlink()
    if told_bytes is not None and stats_bytes(run_dir) > told_bytes:
        os.truncate(Path(run_dir) / STATS, told_bytes)


def moment_name(cur_nimg, tick_nimg, tick_kimg):
    """kimg for the names of a tick's files: whole as in the official release; with thousandths in
    short ticks, and where the tick before, which ended at tick_nimg, has the whole number."""
    whole = tick_kimg >= 1 and cur_nimg // 1000 != tick_nimg // 1000
    return f"{cur_nimg // 1000:06d}" + ("" if whole else f".{cur_nimg % 1000:03d}")


def stats_bytes(run_dir):
    """Length of stats.jsonl; 0 where there is none."""
    path = Path(run_dir) / STATS
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def disk_full_told(run_dir):
    """Where a full disk ends what is done inside: a UserError that says what is left to go on from.

    TensorFlow's writers report it as exhausted resources, as they do a device's memory.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if not _is_disk_full(error):
            raise
        states = list_states(run_dir)
        left = (f"the last good training state is whole ({states[-1].name})" if states
                else "no training state was written yet")
        raise UserError(f"the disk of {run_dir} is full ({util.one_line(error)[:200]}); {left}: "
                        "make room and run the same command to continue; --keep=1 and fewer "
                        "snapshots (--network-ticks) need less") from None


def _is_disk_full(error):
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT,
                                                                errno.EFBIG))


def mark_given_up(run_dir, config, progress, snapshot):
    """Note that a run was given up, so that the same command does not lead there again unseen.

    Training states from while updates were skipped are removed. `snapshot`: name of the file with
    the networks as they are.
    """
    advice = [f"a lower --lrate ({as_text(config.lrate)} now)",
              f"a higher --r1-gamma ({config.r1_gamma:g} now)"]
    if config.precision != "fp32":
        advice.append(as_option("precision", "fp32"))
    util.write_json(run_dir / GIVEN_UP, {
        "kimg": progress.cur_nimg / 1000, "skipped": progress.skipped_in_a_row,
        "snapshot": snapshot, "good_kimg": remove_states_of_skips(run_dir),
        "try": ", ".join(advice)})


def given_up_line(run_dir):
    """One line on why a run was given up and what to try."""
    told = util.read_json(Path(run_dir) / GIVEN_UP)
    begin = (f"from kimg {told['good_kimg']:.3f}" if told["good_kimg"] is not None
             else "from the beginning")
    return (f"{run_dir} was given up at kimg {told['kimg']:.3f}: {told['skipped']} updates in a "
            "row had to be skipped, since losses or gradients were not finite; the same options "
            f"lead there again. Try {told['try']}, with --run={run_dir} --override, which goes on "
            f"{begin}, or, where the networks were ruined by then, with another --run, which "
            f"begins anew; the networks of the end are in {told['snapshot']}")


def _stored_options(path):
    """The options in a file, or None where it holds something else."""
    options = util.read_json(path)
    return _complete(options) if isinstance(options, dict) else None


def _complete(record):
    """The record with the defaults of options that came into being after it was written."""
    return {**_as_json(TrainingConfig().to_json()), **_BEFORE, **record}


def _as_json(record):
    """The record as it comes back from a JSON file, where the keys of tables are strings."""
    return {name: {str(k): v for k, v in value.items()} if isinstance(value, dict) else value
            for name, value in record.items()}

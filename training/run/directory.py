"""Run directories: which one a command continues, with which options, or why it cannot."""

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from dnnlib import util
from dnnlib.data import mirroring
from dnnlib.util import UserError
from training.method_config import as_text
from training.run.history import BEST, DIVERGED, FINAL, OPTIONS, STATS
from training.snapshots import numbered_run
from training.state import Progress, list_states, remove_states_with_skips
from training.variants import CONFIGS, DEFAULT_VARIANT

# What no training can change once it has begun, besides its config's `fixed`.
FIXED = {"init_from", "data_digest", "data2_digest", "segmenter_digest", "target_digest",
         "lpips_digest"}
# How and where a training runs; these may change at any time.
LAUNCH = ("device", "gpus", "inception", "keep")
# What runs did before an option existed, if that differs from the option's default.
_BEFORE = {"mirror_pairs": mirroring.NONE}


def named_run(run: str | Path | None, results_dir: str) -> Path | None:
    """Return the directory that --run means: itself, or the run of that number."""
    if run is None:
        return None
    if not str(run) or Path(run).is_file():
        raise UserError(f"--run={run}: expected the name of a directory, or the number of a run")
    if Path(run).is_dir() or not str(run).isdecimal():
        return Path(run)
    return numbered_run(run, results_dir, f"--run={run}: no run of that number")


def stored_options(run_dir: Path | None) -> dict[str, Any] | None:
    """Return the options that a run was started with; None if the directory holds no run.

    Options that did not exist then are set to the values that describe what the run did.
    """
    if run_dir is None or not (run_dir / OPTIONS).is_file():
        return None
    path = run_dir / OPTIONS
    options = util.read_json(path)
    if not isinstance(options, dict):
        raise UserError(f"{path}: damaged: not a set of options; give another --run")
    if options.get("variant", DEFAULT_VARIANT) not in CONFIGS:
        raise UserError(f"{path}: of --variant={options['variant']}, which this version does not "
                        "know; give another --run")
    return _complete(options)


def find_run(run: str | Path | None, results_dir: str | Path, record: dict[str, Any],
             override: bool = False) -> Path | None:
    """Return the directory that a training with the options `record` continues, or None.

    Args:
        run: the requested directory; None for the newest unfinished run in `results_dir` that was
            started with the same options.
        record: {option: value}, as `make_run` stores them.
        override: continue even if options differ.

    Raises:
        UserError: `run` was started with other options (with `override`: with others that cannot
            change), or it diverged, which the same options would repeat.
    """
    if run is None and override:
        raise UserError("--override: needs --run, the run directory to continue with other options")
    run = run or _newest_alike(results_dir, _complete(record))
    changes = run and changed_options(run, record)
    if changes is None:
        if override:
            raise UserError(f"--override: {run} holds no run to continue; leave it out to make one")
        return None
    fixed = [changes[name] for name in changes if name in FIXED | _config_class(record).fixed]
    if fixed:
        raise UserError(f"{run} was started with other options that a training cannot change "
                        f"({'; '.join(fixed)}); give them as they were, or another --run")
    if changes and not override:
        raise UserError(f"{run} was started with other options ({'; '.join(changes.values())}); "
                        f"give the same ones to continue it, --run={run} --override to continue "
                        "with the new ones, or another --run to start over")
    if (Path(run) / DIVERGED).is_file() and not override:
        raise UserError(divergence_message(run))
    return Path(run)


def _newest_alike(results_dir, record):
    """Return the newest unfinished run with these options, or None.

    This includes a run of an earlier version that differs only in options whose defaults follow
    from the data set, if the rules for them have changed since: the user then gets an error and
    decides how to continue it.
    """
    for path in reversed(util.list_runs(results_dir)):
        if (path / FINAL).is_file() or not (path / OPTIONS).is_file():
            continue
        try:
            stored = util.read_json(path / OPTIONS)
        except UserError:  # damaged
            continue
        if not isinstance(stored, dict) or stored.get("variant", DEFAULT_VARIANT) not in CONFIGS:
            continue
        changed = _changed(_complete(stored), record)
        is_earlier = not _BEFORE.keys() <= stored.keys()
        if not changed or (is_earlier and changed <= {"mirror_pairs", "metrics"}):
            return path
    return None


def _changed(old, new):
    """Return the names of options that differ, except those in LAUNCH.

    The same data may have moved to another path, so its digest is compared if it has one.
    """
    same = {name for name in ("data", "data2", "untagged", "segmenter", "target", "lpips")
            if None is not old.get(f"{name}_digest") == new.get(f"{name}_digest")}
    ignored = {*LAUNCH, *same}
    if "untagged_digest" not in old:  # written by an earlier version, which did not store it
        ignored.add("untagged_digest")
    return {name for name in old.keys() | new.keys()
            if old.get(name) != new.get(name) and name not in ignored}


def changed_options(run: str | Path, record: dict[str, Any]) -> dict[str, str] | None:
    """Return {name: 'name: old there, new now'} for options that differ; None without a run."""
    old, new = stored_options(Path(run)), _complete(record)
    if old is None:
        return None
    return {key: f"{key}: {as_text(old.get(key))} there, {as_text(new.get(key))} now"
            for key in sorted(_changed(old, new))}


def _complete(record):
    """Return the record as read back from JSON (keys of tables are strings), with values added for
    options that did not exist when it was written."""
    return json.loads(json.dumps({**_config_class(record)().to_json(), **_BEFORE, **record}))


def _config_class(record):
    """Return the class of a run's options."""
    return CONFIGS[record.get("variant", DEFAULT_VARIANT)]


def make_run(run: str | Path | None, results_dir: str | Path, description: str,
             record: dict[str, Any]) -> Path:
    """Make the requested directory, or the next numbered one, and store the options in it."""
    if run is None:
        path = util.create_run_dir(results_dir, description)
    else:
        path = Path(run)
        path.mkdir(parents=True, exist_ok=True)
    util.write_json(path / OPTIONS, record)
    return path


def adopt_options(run_dir: Path, record: dict[str, Any], log: logging.Logger) -> None:
    """Replace the stored options of a run, and log what changes.

    A run that had finished or diverged is unfinished again. network-final is removed; its networks
    are also in the last snapshot.
    """
    for change in (changed_options(run_dir, record) or {}).values():
        log.info(f"continuing with other options: {change}")
    util.write_json(run_dir / OPTIONS, record)
    for name in (DIVERGED, FINAL):
        (run_dir / name).unlink(missing_ok=True)


def clean_up_after_kill(run_dir: Path, reported_bytes: int | None) -> None:
    """Remove unfinished files of a killed process, and cut stats.jsonl to `reported_bytes`.

    The lines cut off report what will be repeated. None keeps all lines.
    """
    names = ("training-state-", "training_options", "network-", "nonfinite", BEST, "fakes",
             "reals", "augmented", "index")
    util.remove_leftovers(run_dir, [f".{name}*.tmp" for name in names])
    if reported_bytes is not None and stats_bytes(run_dir) > reported_bytes:
        os.truncate(Path(run_dir) / STATS, reported_bytes)


def moment_name(cur_nimg: int, tick_nimg: int, tick_kimg: float) -> str:
    """Return kimg for the names of a tick's files.

    It is a whole number, as in the official release. It has thousandths if ticks are short, or if
    the previous tick, which ended at tick_nimg, has the same whole number.
    """
    whole = tick_kimg >= 1 and cur_nimg // 1000 != tick_nimg // 1000
    return f"{cur_nimg // 1000:06d}" + ("" if whole else f".{cur_nimg % 1000:03d}")


def stats_bytes(run_dir: Path) -> int:
    """Return the length of stats.jsonl; 0 if there is none."""
    path = Path(run_dir) / STATS
    return path.stat().st_size if path.is_file() else 0


def explain_full_disk(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Return a context that turns a full disk into a UserError naming the newest state."""
    def advice():
        states = list_states(run_dir)
        left = (f"the last good training state is complete ({states[-1].name})" if states
                else "no training state was written yet")
        return (f"{left}: make room and run the same command to continue; --keep=1 and fewer "
                "snapshots (--network-ticks) need less")

    return util.explain_disk_full(run_dir, advice)


def mark_diverged(run_dir: Path, remedies: list[str], progress: Progress, snapshot: str) -> None:
    """Record that a run diverged, so that the same command does not silently repeat it.

    Training states written while updates were skipped are removed.

    Args:
        remedies: options to try.
        snapshot: name of the file with the networks at the end.
    """
    util.write_json(run_dir / DIVERGED, {
        "kimg": progress.cur_nimg / 1000, "skipped": progress.skipped_in_a_row,
        "snapshot": snapshot, "good_kimg": remove_states_with_skips(run_dir),
        "try": ", ".join(remedies)})


def divergence_message(run_dir: str | Path) -> str:
    """Return one line that says why a run diverged and what to try."""
    found = util.read_json(Path(run_dir) / DIVERGED)
    begin = (f"from kimg {found['good_kimg']:.3f}" if found["good_kimg"] is not None
             else "from the beginning")
    return (f"{run_dir} was given up at kimg {found['kimg']:.3f}: {found['skipped']} updates in a "
            "row had to be skipped, since losses or gradients were not finite; the same options "
            f"lead there again. Try {found['try']}, with --run={run_dir} --override, which "
            f"continues {begin}, or, if the networks were ruined by then, with another "
            f"--run, which starts over; the networks at the end are in {found['snapshot']}")

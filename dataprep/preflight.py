"""What is there before anything is written: photos that cannot be read, size, time, disk space."""

import functools
import shutil
from pathlib import Path

from dataprep import writer
from dataprep.process_pool import ordered_map
from dnnlib import util
from dnnlib.data.photos import PhotoError, probe

_BATCH = 64  # photos that a worker looks at once
_FEW = 2000  # fewer photos are looked at sooner than processes start
_DISK_MARGIN = 1.02


def count_unreadable(source, keys, workers):
    """How many photos of `source` cannot be read, or are no images by their headers.

    Nothing is decoded, so that damage further behind is not noticed.
    """
    batches = [keys[first:first + _BATCH] for first in range(0, len(keys), _BATCH)]
    counts = ordered_map(functools.partial(_count_batch, source), batches,
                         workers if len(keys) > _FEW else 1)
    unreadable = 0
    with util.progress(total=len(keys), desc="looking", unit="photo") as bar:
        for batch, count in zip(batches, counts):
            unreadable += count
            bar.update(len(batch))
    return unreadable


def _count_batch(source, keys):
    return sum(not _is_readable(source, key) for key in keys)


def _is_readable(source, key):
    try:
        probe(source.read(key))
    except PhotoError:
        return False
    return True


def check_space(config, num_photos, size, seconds, say):
    """Say what `num_photos` of `size` bytes and `seconds` on one core each come to.

    Raises UserError where the disk cannot hold it; unfinished files there are continued or
    replaced, so their space counts as free.
    """
    total = size * num_photos
    say(f"projected: {num_photos} photos, {total / 1e9:.2f} GB ({size / 1e6:.3f} MB "
        f"each), about {util.format_time(seconds * num_photos / config.workers)} with "
        f"{config.workers} workers (from a few of them)")
    folder = Path(config.out).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free + writer.unfinished_bytes(config.out)
    if total * _DISK_MARGIN > free:
        raise util.UserError(f"{config.out}: the disk has only {free / 1e9:.2f} GB left; free some "
                             "space, or choose another --out, --resolution or --num-images")

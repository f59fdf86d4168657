"""Compare our networks, losses, metrics and files with numbers of the official release.

    python -m tests.oracles.vectors DIR --tag c3

compares with a folder of reference vectors (its README explains every array), prints the largest
error of every quantity and exits with status 1 if one is above its tolerance. It also names what in
the folder was not compared with anything. The network's properties (resolution, channels, maps,
labels, layers) follow from the arrays. The tests use the same functions.
"""

import argparse
import sys
from collections import Counter

from tests.oracles.vector_data import (
    check_descriptions,
    check_reals,
    check_schedule,
    check_tfrecords,
)
from tests.oracles.vector_files import Vectors
from tests.oracles.vector_losses import check_losses, check_r1
from tests.oracles.vector_metrics import check_inception, check_metrics
from tests.oracles.vector_networks import (
    check_discriminator,
    check_generator,
    check_intermediates,
    check_mixing,
    check_official,
    check_primitives,
)

CHECKS = (check_primitives, check_generator, check_discriminator, check_intermediates, check_mixing,
          check_official, check_losses, check_r1, check_reals, check_schedule, check_tfrecords,
          check_metrics, check_inception, check_descriptions)


def worst(comparisons):
    """Return {quantity: its comparison with the largest error}, in order of appearance."""
    result = {}
    for comparison in comparisons:
        known = result.get(comparison.quantity)
        if known is None or not comparison.error <= known.error:
            result[comparison.quantity] = comparison
    return result


def assert_agreement(comparisons):
    """Assert that there is something to compare, and that all of it agrees."""
    rows = worst(comparisons).values()
    assert rows, "nothing was compared"
    assert not [row for row in rows if not row.error <= row.tolerance]


def main(argv=None):
    """Print the table; return 0 if everything agrees, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="folder of reference vectors")
    parser.add_argument("--tag", default="c3", help="configuration, the files' prefix (default c3)")
    args = parser.parse_args(argv)
    vectors, failed = Vectors(args.folder, args.tag), 0
    if vectors.load(f"{args.tag}_vars") is None:
        parser.error(f"{args.folder} holds no {args.tag}_vars.npz")
    for check in CHECKS:
        excused = len(vectors.excused)
        comparisons = list(check(vectors))
        if not comparisons and len(vectors.excused) == excused:
            print(f"{check.__name__}: its file is not in {args.folder}")
        for row in worst(comparisons).values():
            count = sum(c.quantity == row.quantity for c in comparisons)
            verdict = "ok" if row.error <= row.tolerance else "FAILED"
            failed += verdict != "ok"
            print(f"{row.quantity:48} {row.error:9.1e} of {row.tolerance:.0e}  {verdict:6} "
                  f"{count:4} arrays, worst {row.item}")
    for reason, count in Counter(vectors.excused.values()).items():
        print(f"not compared: {count} values, {reason}")
    for name in vectors.forgotten():
        print(f"nothing of ours is compared with {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

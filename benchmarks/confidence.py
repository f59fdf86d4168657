"""Measure whether confidence (generation/selection.py) predicts how correct a pair's map is: its
mean IoU with the labels that a segmentation network, trained on real photos, gives the photo.
"""

import numpy as np
from scipy import stats

from benchmarks.result import report
from dnnlib import cli

EXAMPLES = """\
  python -m benchmarks.confidence --network=3 --segmenter=4    two runs
"""
PARTS = 4  # groups of pairs, from the least to the most confident


def main(argv: list[str]) -> int:
    """Compare confidence and mean IoU pair by pair; print rank correlations and means."""
    options = parse_options(argv)
    # Imported here so that --help and wrong options answer at once.
    from training.sampler import Sampler
    from training.segmentation.labeller import Labeller
    from training.snapshots import find_snapshot

    sampler = Sampler.load(find_snapshot(options.network, options.results))
    labeller = Labeller.load(options.segmenter, options.results)
    sure, right, num_labels = measure(sampler, labeller, options.pairs, options.minibatch)
    alike = {}  # pairs with few labels are easier and surer: also correlate within equal numbers
    for number in np.unique(num_labels):
        chosen = num_labels == number
        if chosen.sum() >= options.pairs / 20:
            alike[int(number)] = rank_correlation(sure[chosen], right[chosen])
    groups = np.array_split(np.argsort(sure, kind="stable"), PARTS)
    report({
        "network": str(sampler.path), "segmenter": str(labeller.path), "pairs": options.pairs,
        "mean_iou": round(float(right.mean()), 3),
        "rank_correlation": rank_correlation(sure, right),
        "of_pairs_with_as_many_labels": alike,
        "fewer_labels_alone": rank_correlation(-num_labels, right),
        "groups": [{"confidence": round(float(sure[group].mean()), 3),
                    "mean_iou": round(float(right[group].mean()), 3)} for group in groups]},
        options.out)
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--network", required=True, metavar="SPEC", help="generator: snapshot, run or number")
    add("--segmenter", required=True, metavar="SPEC", help="segmentation network of the same "
        "classes and resolution")
    add("--results", default="results", metavar="DIR", help="where the run directories are")
    add("--pairs", type=cli.positive_int, default=1024, metavar="N", help="seeds 0 to N - 1")
    add("--minibatch", type=cli.positive_int, default=32, metavar="N", help="samples at a time")
    add("--out", metavar="FILE", help="write the JSON there too")
    return parser.parse_args(argv)


def measure(sampler, labeller, count, minibatch):
    """Return confidence, mean IoU and number of labels of each of `count` pairs, float64 [count].

    The mean IoU is over the labels in the generated map, including the background, within the
    photo.
    """
    from generation import pairs, selection

    found = []
    for images in sampler.seed_images(range(count), 1.0, "random", minibatch):
        rgb, maps = pairs.to_pairs(images)
        inside = (selection.crop_to_box(arrays, sampler.content_box)
                  for arrays in (images.numpy(), maps, labeller.label_maps(rgb)))
        photos, maps, labelled = inside
        for sure, one, other in zip(selection.confidence(photos), maps, labelled):
            labels = np.unique(one)
            overlaps = [((one == label) & (other == label)).sum()
                        / ((one == label) | (other == label)).sum() for label in labels]
            found.append((sure, np.mean(overlaps), len(labels)))
    return np.array(found).T


def rank_correlation(one, other):
    """Return Spearman's rank correlation, to two digits."""
    return round(float(stats.spearmanr(one, other)[0]), 2)


if __name__ == "__main__":
    cli.run_main(main)

"""Compute labelsNk of real photos whose maps are made worse on purpose: moved by some pixels, two
classes swapped, maps of another sample. It should fall, in this order."""

import numpy as np

from dnnlib import cli
from dnnlib.charts import bar_chart
from dnnlib.util import UserError, atomic_write
from metrics.features import FeatureSet
from metrics.image_sources import open_images
from metrics.label_agreement import check_labeller, confusion_measure, label_agreement
from metrics.map_quality import PairBatch

EXAMPLES = """\
  python -m benchmarks.worse_maps --segmenter=results/00005-segmenter-ccp --data=datasets/ccp
"""
MOVES = (1, 2, 4)


def main(argv):
    """Measure and print a table. Return the exit status."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--segmenter", required=True, metavar="RUN_OR_FILE",
        help="segmenter trained on real photos")
    add("--results", default="results", metavar="DIR", help="where the run directories are")
    add("--data", required=True, metavar="DIR", help="data set")
    add("--split", default="test", help="split of the data set")
    add("--swap", metavar="CLASS,CLASS", help="classes to swap (default: the two largest)")
    add("--out", metavar="FILE", help="write a bar chart to this PNG file")
    options = parser.parse_args(argv)
    from training.segmentation.labeller import Labeller

    labeller = Labeller.load(options.segmenter, options.results)
    source = open_images(options.data, options.split, labeller.resolution)
    check_labeller(labeller, source.classes, source.sizes, f"the reals, {source.name},")
    swap = options.swap.split(",") if options.swap else None
    if swap and not (len(swap) == 2 and set(swap) <= set(source.classes)):
        raise UserError(f"--swap={options.swap}: two of {', '.join(source.classes)}")
    rgb, label_maps = (np.concatenate(part) for part in zip(*source.batches(maps=True)))
    scores = judge(labeller, rgb, worsened(label_maps, source.classes, swap))
    print(f"{'':36}{'mIoU':>9}{'foreground':>12}{'accuracy':>10}{'ratio':>8}")
    for how, values in scores.items():
        print(f"{how:36}{values['']:9.3f}{values['_foreground']:12.3f}{values['_accuracy']:10.3f}"
              f"{values['_ratio']:8.3f}")
    if options.out:
        title = (f"mIoU of maps and a segmenter's labels, {len(rgb):,} real photos of "
                 f"{source.name} at {labeller.resolution}x{labeller.resolution}")
        atomic_write(options.out, bar_chart(
            list(scores), {"mIoU": [values[""] for values in scores.values()]}, "{:.3f}", title,
            kind="png"))
    return 0


def worsened(label_maps, classes, swap=None):
    """Return {how: label maps uint8 [N, H, W]}: as they are, and made worse in several ways."""
    worse = {"as they are": label_maps}
    for pixels in MOVES:
        moved = np.zeros_like(label_maps)
        moved[:, :, pixels:] = label_maps[:, :, :-pixels]
        worse[f"moved by {pixels} pixel{'s' * (pixels > 1)}"] = moved
    if swap is None:
        counts = np.bincount(label_maps.ravel(), minlength=1 + len(classes))[1:]
        swap = [classes[i] for i in np.argsort(-counts)[:2]]
    table = np.arange(256, dtype=np.uint8)
    table[[1 + classes.index(name) for name in swap]] = [1 + classes.index(name)
                                                         for name in reversed(swap)]
    worse[f"{' and '.join(swap)} swapped"] = table[label_maps]
    worse["of another sample"] = np.roll(label_maps, 1, axis=0)
    return worse


def judge(labeller, rgb, maps):
    """Return {how: values of labelsNk} of photos with the maps {how: label maps}; the first maps
    are those of the reals."""
    measure, num_classes = confusion_measure(labeller), len(labeller.classes)
    sets = {how: FeatureSet(maps={"confusion": measure.count(PairBatch(rgb, label_maps),
                                                             num_classes)})
            for how, label_maps in maps.items()}
    reals = next(iter(sets.values()))
    return {how: label_agreement(images, reals) for how, images in sets.items()}


if __name__ == "__main__":
    cli.run_main(main)

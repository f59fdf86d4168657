"""Classes, real against generated: table, JSON and bar chart of classesNk, mapsNk and labelsNk.

Proportions of instances as in the thesis behind Style-C-GAN (Korneliusson 2019), figure 5.3, and
frequencies: shares of the images that show a class; classes in descending real order. Both sides
are counted by dnnlib.data.class_counts, above the same area.
"""

from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.charts import bar_chart
from dnnlib.data.class_counts import proportions


def class_table(classes: list[str], reals, fakes) -> list[dict]:
    """Return a row per class, in descending real order: name, instances, proportions, frequencies,
    and the mean share of the image that a class covers where it is shown.

    reals, fakes: FeatureSet with areas.
    """
    real, fake = reals.instances, fakes.instances
    shares = proportions(real), proportions(fake)
    areas = _mean_areas(reals), _mean_areas(fakes)
    return [{"name": classes[i],
             "real_instances": int(real[i]), "fake_instances": int(fake[i]),
             "real_proportion": float(shares[0][i]), "fake_proportion": float(shares[1][i]),
             "real_frequency": float(real[i] / len(reals)),
             "fake_frequency": float(fake[i] / len(fakes)),
             "real_area": float(areas[0][i]), "fake_area": float(areas[1][i])}
            for i in np.argsort(-real, kind="stable")]


def _mean_areas(images):
    """Return the mean share that each class covers of the images that show it, float64 [C]."""
    shown = images.areas > images.min_area
    return (images.areas * shown).sum(axis=0, dtype=np.float64) / np.maximum(images.instances, 1)


def write_table(path: Path | str, pattern: str, record: dict) -> str:
    """Write `path`.json, the record of a metric with its table as `classes`, and `path`.png, its
    chart; return both names.

    pattern: 'classesNk' shows proportions of instances, 'mapsNk' frequencies, 'labelsNk' and 'miou'
    the IoU of each label.
    """
    util.write_json(f"{path}.json", record)
    values, name, table = record["results"], record["metric"], record["classes"]
    column, title = {
        "classesNk": lambda: (
            "proportion",
            f"Proportions of instances per class, total variation distance {values[name]:.3f}"),
        "mapsNk": lambda: (
            "frequency", "Share of images that show a class (total variation distance "
            f"{values[f'{name}_tv']:.3f}); {values[name]:.1%} of the generated regions are specks"),
        "labelsNk": lambda: (
            "iou", f"IoU of the maps and a segmenter's labels; mean {values[name]:.3f}, of the "
            f"reals {values[f'{name}_real']:.3f}, ratio {values[f'{name}_ratio']:.3f}"),
        "miou": lambda: (
            "iou", f"IoU of each label; mean {values[name]:.3f}" + (
                f", of the reals {values['miou_real']:.3f}" if "num_fakes" in record else ""))}[
                pattern.removesuffix("_trainval")]()
    series = {f"{record['num_reals']:,} real": [100 * (row[f"real_{column}"] or 0)
                                                for row in table]}
    if "num_fakes" in record:  # miou of a segmenter has none
        series[f"{record['num_fakes']:,} generated"] = [100 * (row[f"fake_{column}"] or 0)
                                                        for row in table]
    chart = bar_chart([row["name"] for row in table], series, "{:.1f} %", title, kind="png")
    util.atomic_write(f"{path}.png", chart)
    return f"{path}.json, {path}.png"

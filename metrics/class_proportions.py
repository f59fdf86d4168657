"""Proportions of instances per class, real against generated: table, JSON and bar chart.

After the thesis behind Style-C-GAN (Korneliusson 2019), figure 5.3: classes in descending real
order. Both sides are counted by dnnlib.data.class_counts, above the same area.
"""

import numpy as np

from dnnlib import charts, util
from dnnlib.data import pictures
from dnnlib.data.class_counts import proportions


def class_table(classes, reals, fakes):
    """A row per class, in descending real order: name, instances and proportions of both sides.

    reals, fakes: FeatureSet with areas. Classes that no real shows keep their own order.
    """
    real, fake = reals.instances, fakes.instances
    shares = proportions(real), proportions(fake)
    return [{"name": classes[i],
             "real_instances": int(real[i]), "fake_instances": int(fake[i]),
             "real_proportion": float(shares[0][i]), "fake_proportion": float(shares[1][i])}
            for i in np.argsort(-real, kind="stable")]


def write_table(path, table, record):
    """Write `path`.json, the record with the table, and `path`.png, its chart; returns their names.

    record: results, num_reals, num_fakes, ... of the metric.
    """
    util.write_json(f"{path}.json", {**record, "classes": table})
    distance, = record["results"].values()
    title = f"Proportions of instances per class, total variation distance {distance:.3f}"
    chart = charts.bar_chart(title, [row["name"] for row in table], {
        f"{record['num_reals']:,} real": [row["real_proportion"] for row in table],
        f"{record['num_fakes']:,} generated": [row["fake_proportion"] for row in table]})
    pictures.save_png(f"{path}.png", chart)
    return f"{path}.json, {path}.png"

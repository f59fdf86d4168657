"""Proportions of instances per class, real against generated: table, JSON and bar chart.

After the thesis behind Style-C-GAN (Korneliusson 2019), figure 5.3: classes in descending real
order. Both sides are counted by dnnlib.data.class_counts, above the same area.
"""

from pathlib import Path

import numpy as np

from dnnlib import util
from dnnlib.charts import bar_chart
from dnnlib.data.class_counts import proportions


def class_table(classes: list[str], reals, fakes) -> list[dict]:
    """Return a row per class, in descending real order: name, instances and proportions.

    reals, fakes: FeatureSet with areas.
    """
    real, fake = reals.instances, fakes.instances
    shares = proportions(real), proportions(fake)
    return [{"name": classes[i],
             "real_instances": int(real[i]), "fake_instances": int(fake[i]),
             "real_proportion": float(shares[0][i]), "fake_proportion": float(shares[1][i])}
            for i in np.argsort(-real, kind="stable")]


def write_table(path: Path | str, table: list[dict], record: dict) -> str:
    """Write `path`.json, the metric's record with the table, and `path`.png, its chart; return both
    names."""
    util.write_json(f"{path}.json", {**record, "classes": table})
    distance, = record["results"].values()
    chart = bar_chart(
        [row["name"] for row in table],
        {f"{record['num_reals']:,} real": [100 * row["real_proportion"] for row in table],
         f"{record['num_fakes']:,} generated": [100 * row["fake_proportion"] for row in table]},
        "{:.1f} %", f"Proportions of instances per class, total variation distance {distance:.3f}",
        kind="png")
    util.atomic_write(f"{path}.png", chart)
    return f"{path}.json, {path}.png"

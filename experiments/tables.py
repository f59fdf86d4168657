"""Make the tables of experiments: means over seeds, differences beyond chance, Markdown, bars."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dnnlib import util
from dnnlib.charts import bar_chart

SPREAD = "Mean over seeds ± half of the distance between the smallest and the largest."


class Measure(NamedTuple):
    """A column: the value of a metric by name, times `factor`."""

    title: str
    value: str
    better: str  # 'lower' or 'higher'
    factor: float = 1.0
    form: str = "{:.1f}"


class Cell(NamedTuple):
    """Mean of a measure over a row's seeds; spread: largest minus smallest, None for one seed."""

    mean: float
    spread: float | None


Table = dict[str, dict[str, Cell]]  # {row: {title of a measure: Cell}}


def summarize(results: Sequence[dict], measures: Sequence[Measure]) -> Table:
    """Return the table of results; cells without values are left out."""
    table = {}
    for row in dict.fromkeys(result["row"] for result in results):
        table[row] = {}
        for measure in measures:
            values = [measure.factor * result["values"][measure.value] for result in results
                      if result["row"] == row and measure.value in result["values"]]
            if values:
                spread = max(values) - min(values) if len(values) > 1 else None
                table[row][measure.title] = Cell(sum(values) / len(values), spread)
    return table


def cell_text(cell: Cell | None, measure: Measure) -> str:
    """Return '81.0', '81.0 ± 2.0' (half of the spread) or a dash."""
    if cell is None:
        return "–"
    text = measure.form.format(cell.mean)
    return text if cell.spread is None else f"{text} ± {measure.form.format(cell.spread / 2)}"


def reference_cells(values: dict[str, float | None], measures: Sequence[Measure]) -> list[str]:
    """Return the texts of a row that is not a training, from {a measure's value: value}."""
    return [cell_text(None if values.get(measure.value) is None else
                      Cell(measure.factor * values[measure.value], None), measure)
            for measure in measures]


def table_to_json(table: Table) -> dict[str, dict[str, dict]]:
    """Return a table for JSON."""
    return {row: {title: cell._asdict() for title, cell in cells.items()}
            for row, cells in table.items()}


def differences(table: Table, base: str, measures: Sequence[Measure],
                compared: Sequence[str] | None = None) -> list[str]:
    """Return sentences on how rows differ from the row `base`, if by more than seeds do.

    Chance is the largest spread between seeds of any row, for each measure. If no row has two seeds
    that differ, no difference is reported.

    Args:
        compared: the rows that are compared with it, if the table has them; None for all.
    """
    # Chance: {title: spread}
    chance = {}
    for measure in measures:
        spreads = [cells[measure.title].spread for cells in table.values()
                   if measure.title in cells and cells[measure.title].spread is not None]
        # Seeds that agree, as counts sometimes do, do not show how large chance is.
        if spread := max(spreads, default=0):
            chance[measure.title] = spread
    if base not in table:
        return [f"`{base}` is not finished yet: there is nothing to compare with."]
    if not chance:
        return ["No row has two seeds that differ: what differs by chance is not known, and no "
                "difference is stated."]
    # Collect the differences that exceed it.
    lines = []
    for row, cells in table.items():
        if row == base or row not in (table if compared is None else compared):
            continue
        parts = []
        for measure in measures:
            title = measure.title
            if title not in cells or title not in table[base] or title not in chance:
                continue
            change = cells[title].mean - table[base][title].mean
            if abs(change) > chance[title]:
                side = "lower" if change < 0 else "higher"
                parts.append(f"{title} {side} by {measure.form.format(abs(change))} "
                             f"({'better' if side == measure.better else 'worse'})")
        lines.append(f"`{row}` against `{base}`: "
                     f"{', '.join(parts) or 'no more than seeds differ'}.")
    return lines


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def results_table(results: Sequence[dict], table: Table, measures: Sequence[Measure],
                  about: dict[str, Callable[[list[dict]], str]],
                  more: Iterable[Sequence[str]] = ()) -> str:
    """Return the rows of a table in Markdown: seeds, measures, and further columns.

    Args:
        about: {title of a further column: function of a row's results}.
        more: rows at the end.
    """
    rows = []
    for row, cells in table.items():
        own = [result for result in results if result["row"] == row]
        rows.append([f"`{row}`", str(len(own)),
                     *(cell_text(cells.get(measure.title), measure) for measure in measures),
                     *(of_row(own) for of_row in about.values())])
    return markdown_table(["row", "seeds", *(measure.title for measure in measures), *about],
                          [*rows, *more])


def training_time(results: Sequence[dict]) -> str:
    """Return how long a training of a row took, on average."""
    return util.format_time(sum(result["training_sec"] for result in results) / len(results))


def class_columns(results: Sequence[dict], value: str, about: dict[str, list[str]] | None = None,
                  head: Sequence[str] = ()) -> str:
    """Return a table of classes in Markdown, in per cent: mean over seeds ± half of the spread,
    with a column for each row of the study.

    Args:
        value: key in miou's table of classes: 'real_iou', 'real_accuracy' or 'fake_iou'.
        about: {class: texts of further columns} for the classes that are shown; None for all.
        head: titles of the further columns.
    """
    if about is None:
        about = {entry["name"]: [] for result in results
                 for entry in result["classes"].get("miou", [])}
    measures = [Measure(name, name, "higher", 100) for name in about]
    table = summarize([{"row": result["row"], "values": {
        entry["name"]: entry[value] for entry in result["classes"].get("miou", [])
        if entry[value] is not None}} for result in results], measures)
    return markdown_table(["class", *head, *table], [
        [measure.title, *about[measure.title],
         *(cell_text(cells.get(measure.title), measure) for cells in table.values())]
        for measure in measures])


def command_lines(results: Sequence[dict]) -> list[str]:
    """Return the lines of Markdown with every command that made the results, each once."""
    commands = dict.fromkeys(line for result in results for line in (
        *result["preparations"], result["training"], *result["evaluations"]))
    return ["## Commands", "", *(f"    {line}" for line in commands)]


def write_bars(path: Path, table: Table, measures: Sequence[Measure], title: str) -> None:
    """Write a PNG with a group of bars for every row that has all of the measures; whiskers are
    half of the spread, as in the table."""
    rows = {row: cells for row, cells in table.items()
            if all(measure.title in cells for measure in measures)}
    series = {measure.title: [cells[measure.title].mean for cells in rows.values()]
              for measure in measures}
    spreads = {measure.title: [(cells[measure.title].spread or 0) / 2 for cells in rows.values()]
               for measure in measures}
    util.atomic_write(path, bar_chart(list(rows), series, "{:.1f}", title, "png", spreads))

"""dataset.json, what a data set says of itself: written last, so that none means unfinished."""

from dataclasses import dataclass
from pathlib import Path

from dnnlib.util import UserError, read_json

FORMAT_VERSION = 1
FILE_NAME = "dataset.json"


@dataclass(frozen=True)
class DatasetInfo:
    """The parts of dataset.json that readers need. `splits`: {split: number of images}."""

    path: Path
    name: str
    resolution: int
    num_channels: int
    classes: tuple
    splits: dict
    digest: str


def open_dataset(directory):
    """Read and check dataset.json. Raises UserError where the data set is missing or unfinished."""
    path = Path(directory)
    if not (path / FILE_NAME).is_file():
        state = "is unfinished (no dataset.json)" if path.is_dir() else "does not exist"
        raise UserError(f"data set {path} {state}; make it with dataset_tool.py, for example: "
                        "python dataset_tool.py create_modanet")
    content = read_json(path / FILE_NAME)
    if not isinstance(content, dict) or content.get("complete") is not True:
        raise UserError(f"{path / FILE_NAME}: not of a finished data set; make it again")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path / FILE_NAME}: format version {content.get('format_version')!r}; "
                        f"this program reads version {FORMAT_VERSION}")
    try:
        splits = {split: len(ids) for split, ids in content["splits"].items()}
        return DatasetInfo(path, content["name"], content["resolution"], content["num_channels"],
                           tuple(content["classes"]), splits, content["digest"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / FILE_NAME}: incomplete ({error!r}); make it again") from None

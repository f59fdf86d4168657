"""README.md and docs/ against the tree: the map of the code, links, paths, commands and options."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("experiments", "generation", "metrics", "training", "dataprep", "dnnlib")
SCRIPTS = ("train", "generate", "run_metrics", "dataset_tool")
HELP = ROOT / "tests" / "frozen" / "help"  # test_frozen.py compares it with the scripts' output
OF_BENCHMARKS = {"--ops", "--resolutions"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def mapped():
    """Return {path: description} of the map in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text().partition("## Map of the code")[2]
    lines = re.findall(r"^    (\S+\.py) +(\S.*)$", text, re.MULTILINE)
    assert len(lines) == len(dict(lines)), "a file is in the map twice"
    return dict(lines)


def test_the_map_has_every_file_and_no_other():
    files = {path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    files |= set(ROOT.glob("*.py"))
    names = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    assert mapped().keys() == names


def test_design_is_short():
    """Except for the map, which has a line for each file."""
    text = (ROOT / "docs" / "design.md").read_text().partition("## Map of the code")[0]
    assert len(text.splitlines()) <= 110


def anchors(page):
    """Return the names by which links can refer to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_modules_exist(page):
    text = page.read_text()
    paths = set(re.findall(r"(?<![\w/])[a-z]\w*(?:/\w+)+\.py\b", text))
    modules = set(re.findall(r"python -m (\w+(?:\.\w+)+)", text))
    for module in modules:  # a file, or a folder that can be run
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    assert not {path for path in paths if not (ROOT / path).is_file()}


def commands(page):
    """Return [(script, arguments)] of all commands on a page, one per line."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    return re.findall(rf"python ({'|'.join(SCRIPTS)})\.py\b([^`\n]*)", text)


def options_of(script, arguments=""):
    """Return the options in the help of a script, of a command of the dataset tool, or of a variant
    with its own help."""
    variant = re.search(r"--variant=(\w+)", arguments)
    command = f"-{arguments.split()[0]}" if script == "dataset_tool" else ""
    if script == "train" and variant and (HELP / f"train-{variant[1]}.txt").is_file():
        command = f"-{variant[1]}"
    return set(OPTION.findall((HELP / f"{script}{command}.txt").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_are_shown(page):
    for script, arguments in commands(page):
        own = arguments.partition("  #")[0].partition(" -- ")[0]  # the rest is a runner's
        assert set(OPTION.findall(own)) <= options_of(script, arguments), (script, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_belong_to_some_command(page):
    known = {option for path in HELP.glob("*.txt") for option in OPTION.findall(path.read_text())}
    texts = re.findall(r"`(-[^`]+)`", page.read_text())
    unknown = {option for text in texts for option in OPTION.findall(text)} - known
    assert not unknown - OF_BENCHMARKS

"""generate.py --explore as a command: what it needs, and options that do not go with it."""

import sys

import pytest


def test_without_gradio_the_error_says_how_to_install_it(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "generation.explore.server", raising=False)
    status, error = script("--explore")
    assert status == 2 and error == (
        "error: --explore: gradio is not installed; install it with: pip install -r "
        "requirements-explore.txt\n")


@pytest.mark.parametrize("option, reason", [
    ("--trunc=0.5", "without effect: it is for a grid of seeds"),
    ("--first-seed=3", "without effect: it is for --num"),
    ("--label=1", "without effect: it is for a grid of seeds"),
    ("--num=3", "not allowed with argument")])
def test_options_that_are_controls_of_the_page_are_refused(script, option, reason):
    status, error = script("--explore", option)
    assert status == 2 and reason in error

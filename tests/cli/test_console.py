"""How results look on stdout."""

import json

import pytest

from tvmopt.cli.console import counted, print_fields, print_json, print_table, size_text

Capture = pytest.CaptureFixture[str]


def test_what_json_has_no_number_for_is_text(capsys: Capture):
    print_json({"a": [1.5, float("nan")], "b": (float("inf"), -float("inf")), "c": "é"})
    text = capsys.readouterr().out
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {"a": [1.5, "nan"], "b": ["inf", "-inf"], "c": "é"}


def test_a_table_that_is_piped_on_is_not_wrapped(capsys: Capture):
    name = "/model/encoder/layer/" * 20
    print_table("t", ("layer", "ms"), [(name, 1.25)], numbers=("ms",))
    assert name in capsys.readouterr().out


def test_names_with_brackets_are_printed_as_they_are(capsys: Capture):
    print_table("t", ("layer",), [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_fields_are_aligned(capsys: Capture):
    print_fields([("a", 1), ("long", "x"), ("none", "")])
    assert capsys.readouterr().out == "a     1\nlong  x\nnone\n"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (44_600_000, "44.6 MB"), (4.4e9, "4.40 GB")],
)
def test_sizes_are_in_the_unit_that_suits_them(size_bytes: float, text: str):
    assert size_text(size_bytes) == text


def test_counts_have_a_plural():
    assert [counted(n, "thread") for n in (0, 1, 2)] == ["0 threads", "1 thread", "2 threads"]

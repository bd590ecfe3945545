"""The small languages of option values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvmopt import UsageError
from tvmopt.cli.options import parse_dims, parse_input_shapes, parse_passes


def test_shapes_come_one_by_one_or_after_commas():
    expected = {"x": (1, 3, 224, 224), "y": (8,), "s": ()}
    assert parse_input_shapes(["x:[1,3,224,224]", "y:[8]", "s:[]"]) == expected
    assert parse_input_shapes(["x:[1, 3, 224, 224], y:[8] ,s:[]"]) == expected
    assert parse_input_shapes(["x:1,3,224,224", "y:8", "s:"]) == expected


names = st.text(
    st.characters(categories=("L", "N"), include_characters=":/._-"), min_size=1
).filter(lambda name: name.strip(":") == name)
shapes = st.dictionaries(names, st.lists(st.integers(1, 10**6)).map(tuple), min_size=1)


@given(shapes)
def test_any_name_with_colons_and_slashes_is_read_back(given_shapes: dict[str, tuple[int, ...]]):
    text = ",".join(f"{name}:{list(shape)}" for name, shape in given_shapes.items())
    assert parse_input_shapes([text]) == given_shapes


@pytest.mark.parametrize("text", ["", "x", "x:[1,3", "[1]", "x=[1]", "x:[1] y:[2]", ":[1]"])
def test_a_shape_of_another_form_is_shown_the_form(text: str):
    with pytest.raises(UsageError, match="NAME:") as caught:
        parse_input_shapes([text])
    assert '"x:[1,3,224,224]"' in (caught.value.hint or "")


@pytest.mark.parametrize("size", ["0", "-1", "a", "1.5", "N", "1_0", "²"])
def test_a_dimension_that_is_no_positive_number_is_named(size: str):
    with pytest.raises(UsageError, match="a dimension of 'x' is '"):
        parse_input_shapes([f"x:[1,{size}]"])
    with pytest.raises(UsageError, match="a dimension of 'N' is '"):
        parse_dims([f"N={size}"])


def test_a_shape_or_dimension_given_twice_is_refused():
    with pytest.raises(UsageError, match="'x' twice"):
        parse_input_shapes(["x:[1]", "x:[2]"])
    with pytest.raises(UsageError, match="'N' twice"):
        parse_dims(["N=1", "N=2"])


def test_dimensions():
    assert parse_dims(["batch=1", "a=b=16"]) == {"batch": 1, "a=b": 16}


@pytest.mark.parametrize("text", ["batch", "=1", ""])
def test_a_dimension_of_another_form_is_refused(text: str):
    with pytest.raises(UsageError, match="NAME=SIZE"):
        parse_dims([text])


def test_passes():
    given_texts = ["fuse", "layout:block=8,mode=a=b", "layout:weights=false"]
    expected = {"fuse": {}, "layout": {"block": "8", "mode": "a=b", "weights": "false"}}
    assert parse_passes(given_texts) == expected


@pytest.mark.parametrize("text", ["layout:block", "layout:", "layout:=8", "layout:a=1,"])
def test_a_pass_option_of_another_form_is_refused(text: str):
    with pytest.raises(UsageError, match="not of the form key=value"):
        parse_passes([text])

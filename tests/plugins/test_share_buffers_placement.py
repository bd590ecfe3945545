"""Where the parts of concatenations go; values of 64 bytes for each part."""

import pytest

from tvmopt_plugins.share_buffers.placement import Piece, Placement, Value, place

FRESH = Value(64, is_fresh=True)
INPUT = Value(64)


def joined(*parts: int, is_fresh: bool = True, size_bytes: int = 0) -> Value:
    return Value(size_bytes or 64 * len(parts), is_fresh, parts=parts)


def placed(*values: Value) -> Placement:
    return place(values, 64)


def test_parts_are_written_one_after_the_other() -> None:
    made = placed(FRESH, FRESH, joined(0, 1))
    assert made.owners == {2}
    assert made.home == {0: Piece(2, 0, 64), 1: Piece(2, 64, 64)}
    assert made.copies == {2: []}


def test_what_is_no_kernels_own_is_copied() -> None:
    made = placed(INPUT, FRESH, joined(0, 1))
    assert made.home == {1: Piece(2, 64, 64)}
    assert made.copies == {2: [(0, 0)]}


def test_nothing_is_gained_where_all_parts_are_copied() -> None:
    made = placed(INPUT, INPUT, joined(0, 1))
    assert not made.owners
    assert "no part is written by a kernel" in made.refused[2]


def test_value_joined_with_itself_is_copied_once() -> None:
    made = placed(FRESH, joined(0, 0))
    assert made.home == {0: Piece(1, 0, 64)}
    assert made.copies == {1: [(0, 64)]}


def test_shorter_prefix_of_a_growing_list_is_a_piece_of_the_longest() -> None:
    made = placed(FRESH, FRESH, joined(0, 1), FRESH, joined(0, 1, 3), FRESH, joined(0, 1, 3, 5))
    assert made.owners == {6}
    assert made.aliases == {2: Piece(6, 0, 128), 4: Piece(6, 0, 192)}
    assert [made.home[part].offset for part in (0, 1, 3, 5)] == [0, 64, 128, 192]


def test_model_output_is_no_piece_of_a_larger_buffer() -> None:
    made = placed(FRESH, FRESH, joined(0, 1, is_fresh=False), FRESH, joined(0, 1, 3))
    assert made.aliases == {}
    assert 2 in made.refused


def test_parts_in_another_order_are_no_piece() -> None:
    made = placed(FRESH, FRESH, joined(1, 0), FRESH, joined(0, 1, 3))
    assert made.aliases == {}
    assert made.owners == {4}


def test_inner_concatenation_is_written_into_the_outer_one() -> None:
    made = placed(FRESH, FRESH, joined(0, 1), FRESH, joined(3, 2, size_bytes=192))
    assert made.owners == {4}
    assert made.home[2] == Piece(4, 64, 128)
    assert made.home[1] == Piece(4, 128, 64)


def test_part_of_two_concatenations_lies_in_the_later_one() -> None:
    made = placed(FRESH, FRESH, FRESH, joined(0, 1), joined(2, 1))
    assert made.home[1] == Piece(4, 64, 64)
    assert made.copies[3] == [(1, 64)]


def test_halves_that_follow_each_other_are_the_whole_value() -> None:
    whole = Value(128, is_fresh=True)
    first, second = Value(64, piece_of=(0, 0)), Value(64, piece_of=(0, 64))
    made = placed(whole, first, second, FRESH, joined(1, 2, 3))
    assert made.home == {0: Piece(4, 0, 128), 3: Piece(4, 128, 64)}
    assert made.copies == {4: []}


@pytest.mark.parametrize("parts", [(1, 3), (2, 1, 3)])
def test_one_half_and_swapped_halves_are_copied(parts: tuple[int, ...]) -> None:
    whole = Value(128, is_fresh=True)
    first, second = Value(64, piece_of=(0, 0)), Value(64, piece_of=(0, 64))
    made = placed(whole, first, second, FRESH, joined(*parts))
    assert set(made.home) == {3}
    assert [part for part, _ in made.copies[4]] == list(parts[:-1])


def test_unaligned_part_leaves_the_concatenation_to_a_kernel() -> None:
    made = placed(Value(60, is_fresh=True), FRESH, joined(0, 1, size_bytes=124))
    assert made.refused == {2: "a part begins at byte 60, which is no multiple of 64"}

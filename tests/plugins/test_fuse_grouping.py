"""The graph problem of operator fusion: which operators share a kernel."""

from hypothesis import given
from hypothesis import strategies as st

from tvmopt_plugins.fuse.grouping import Kind, Node, group, order

E, M, R, ROW = Kind.ELEMENTWISE, Kind.MOVE, Kind.RESHAPE, Kind.ROW
A, B, X, C = Kind.ANCHOR, Kind.ANCHOR_MOVED, Kind.OPAQUE, Kind.CHOICE


def chain(*kinds: Kind) -> list[Node]:
    last = len(kinds) - 1
    return [
        Node(kind, [index - 1] if index else [], escapes=index == last)
        for index, kind in enumerate(kinds)
    ]


def test_anchor_takes_the_chain_that_follows() -> None:
    assert group(chain(A, E, E)) == [[0, 1, 2]]


def test_anchor_takes_no_prologue() -> None:
    assert group(chain(E, A)) == [[0], [1]]


def test_what_lies_between_anchors_follows_the_first() -> None:
    assert group(chain(A, E, E, A)) == [[0, 1, 2], [3]]


def test_row_operator_takes_prologue_and_epilogue() -> None:
    assert group(chain(E, ROW, E)) == [[0, 1, 2]]


def test_elementwise_chain_becomes_one_kernel() -> None:
    assert group(chain(E, E, E)) == [[0, 1, 2]]


def test_ways_that_meet_again_are_taken_together() -> None:
    # conv -> sigmoid -> multiply, with conv also read by multiply
    nodes = [Node(A), Node(E, [0]), Node(E, [0, 1], escapes=True)]
    assert group(nodes) == [[0, 1, 2]]


def test_result_with_another_reader_stays_in_memory() -> None:
    nodes = [Node(A), Node(E, [0], escapes=True), Node(A, [0], escapes=True)]
    assert group(nodes) == [[0], [1], [2]]


def test_residual_add_joins_one_of_its_anchors() -> None:
    nodes = [Node(A), Node(A), Node(E, [0, 1], escapes=True)]
    assert group(nodes) in ([[1], [0, 2]], [[0], [1, 2]])


def test_quantized_residual_is_dequantized_where_it_is_added() -> None:
    # both: conv -> quantize -> dequantize; add
    nodes = [Node(A, size=8), Node(E, [0], size=8, item_bytes=1), Node(E, [1], size=8)]
    nodes += [Node(A, size=8), Node(E, [3], size=8, item_bytes=1), Node(E, [4], size=8)]
    nodes += [Node(E, [2, 5], size=8, escapes=True)]
    assert group(nodes) == [[3, 4], [0, 1, 2, 5, 6]]


def test_model_output_ends_its_group() -> None:
    nodes = [Node(A), Node(E, [0], escapes=True), Node(E, [1], escapes=True)]
    assert group(nodes) == [[0, 1], [2]]


def test_batched_matmul_takes_moved_operands_only() -> None:
    assert group(chain(M, B)) == [[0, 1]]
    assert group(chain(E, B)) == [[0], [1]]


def test_moves_between_two_matmuls_belong_to_the_batched_one() -> None:
    assert group(chain(A, E, R, M, B)) == [[0, 1], [2], [3, 4]]


def test_reshapes_at_the_border_stand_alone() -> None:
    assert group(chain(R, E, M, R)) == [[0], [1, 2], [3]]
    assert group(chain(A, R, M)) == [[0, 1, 2]]
    assert group(chain(A, R)) == [[0], [1]]


def test_choice_between_computed_parts_is_an_elementwise_kernel() -> None:
    # rotary embedding: x * c + concatenate(-x[h:], x[:h]) * s, with x moved before
    nodes = [Node(A), Node(M, [0]), Node(E, [1]), Node(M, [0]), Node(C, [2, 3]), Node(E, [4])]
    nodes += [Node(E, [0]), Node(E, [5, 6]), Node(B, [7], escapes=True)]
    assert group(nodes) == [[0], [1, 2, 3, 4, 5, 6, 7], [8]]


def test_choice_with_a_stored_part_stays_alone() -> None:
    nodes = [Node(A), Node(X), Node(E, [1]), Node(C, [0, 2]), Node(E, [3], escapes=True)]
    assert group(nodes) == [[0], [1], [2], [3], [4]]
    part_of_anchor = [Node(A), Node(E, [0]), Node(C, [1]), Node(E, [2], escapes=True)]
    assert group(part_of_anchor) == [[0, 1], [2], [3]]


def test_size_limit_holds() -> None:
    assert max(len(g) for g in group(chain(*[E] * 10), max_ops=4)) <= 4


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    count = draw(st.integers(1, 14))
    nodes: list[Node] = []
    for index in range(count):
        kind = draw(st.sampled_from(list(Kind)))
        most = 1 if kind in (M, R) else 2  # what moves elements has one operand
        inputs = draw(st.lists(st.integers(0, index - 1), max_size=most)) if index else []
        nodes.append(Node(kind, inputs, escapes=draw(st.booleans())))
    return nodes


@given(graphs())
def test_any_graph_keeps_its_order_and_has_one_way_out_of_each_group(nodes: list[Node]) -> None:
    groups = group(nodes, max_ops=6)
    assert sorted(i for g in groups for i in g) == list(range(len(nodes)))
    owner = {i: g[-1] for g in groups for i in g}
    for g in groups:
        assert len(g) <= 6
        leaders = [i for i in g if nodes[i].kind in (A, B, ROW)]
        assert len(leaders) <= 1
        assert len(g) == 1 or all(nodes[i].kind is not X for i in g)
        assert not leaders or all(nodes[i].kind is not C for i in g)
        for i in g[:-1]:
            assert not nodes[i].escapes
            readers = [r for r, node in enumerate(nodes) if i in node.inputs]
            assert all(owner[r] == g[-1] for r in readers)
            assert readers, "a result that nobody reads is computed in vain"
        # The group is computed where its last member stood: its operands are ready by then.
        for i in g:
            assert all(owner[p] <= g[-1] for p in nodes[i].inputs)


def test_operand_of_an_epilogue_is_computed_in_it() -> None:
    nodes = [Node(E, size=8), Node(A, size=8), Node(E, [0, 1], escapes=True, size=8)]
    assert group(nodes) == [[0, 1, 2]]
    assert order(nodes, [0, 1, 2]) == [1, 0, 2]  # it is no operand of the anchor


def test_smaller_operand_of_an_epilogue_is_computed_once() -> None:
    nodes = [Node(E, size=2), Node(A, size=8), Node(E, [0, 1], escapes=True, size=8)]
    assert group(nodes) == [[0], [1, 2]]


def test_operand_that_others_need_is_computed_once() -> None:
    nodes = [Node(E, size=8), Node(A, [0], size=8), Node(E, [0, 1], escapes=True, size=8)]
    assert group(nodes) == [[0], [1, 2]]

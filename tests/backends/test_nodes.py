"""What a cache keeps of a tree of drafts, and at what each token looks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsim.backends.torch.decoders import common_prefix
from dsim.backends.torch.nodes import END, along, reading

TOKENS = st.integers(0, 2)  # few, so that texts go on along trees


@st.composite
def requests(draw):
    """A text, a tree below its end, and which of its nodes are asked for."""
    text = draw(st.lists(TOKENS, min_size=1, max_size=6))
    nodes: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(0, 7))):
        node = (draw(st.integers(END, len(nodes) - 1)), draw(TOKENS))
        if node not in nodes:
            nodes.append(node)
    ask = draw(st.lists(st.integers(END, len(nodes) - 1), min_size=1, unique=True))
    wanted = {END}
    for node in ask:  # a node is asked for, or above one that is
        while node not in wanted:
            wanted.add(node)
            node = nodes[node][0]  # noqa: PLW2901
    place = {END: END}
    for number, (parent, token) in enumerate(nodes.copy()):
        if number in wanted:
            place[number] = len(place) - 1
            nodes[place[number]] = (place[parent], token)
    return text, nodes[: len(place) - 1], [place[node] for node in ask]


def path_of(text, nodes, number):
    """The tokens from the beginning of the text to node *number*."""
    path = []
    while number != END:
        path.insert(0, nodes[number][1])
        number = nodes[number][0]
    return [*text, *path]


@given(st.lists(requests(), min_size=1, max_size=6))
def test_each_token_looks_at_its_own_path_and_nothing_else(made):
    """Whatever was read before: a slot of the cache stands for a token with all before it."""
    ids, below = [], []
    slots: list[list[int]] = []  # of each slot: the tokens up to its own
    for text, nodes, ask in made:
        found = reading(ids, below, common_prefix(ids, text), text, nodes, ask)
        slots = [slots[slot] for slot in found.keep]
        kept = len(slots)
        assert found.sees.shape == (len(found.tokens), kept + len(found.tokens))
        for row, (token, position) in enumerate(zip(found.tokens, found.positions, strict=True)):
            slots.append([])  # so that a token that looks at one behind it is found out
            seen = [slots[at] for at in found.sees[row].nonzero()[0] if at != kept + row]
            before = sorted(seen, key=len)
            slots[-1] = [*(before[-1] if before else []), token]
            assert [len(one) for one in before] == list(range(1, position + 1))
            assert all(one == slots[-1][: len(one)] for one in before)
            assert found.sees[row, kept + row]
        for node, row in zip(ask, found.rows, strict=True):
            assert slots[kept + row] == path_of(text, nodes, node)
        ids, below = text, found.after
        assert slots[: len(ids)] == [text[: i + 1] for i in range(len(text))]
        everywhere = [path_of(text, below, number) for number in range(len(below))]
        assert slots[len(ids) :] == everywhere


@given(requests(), st.data())
def test_nothing_is_fed_that_the_cache_has(request, data):
    """Where a text goes on along the tree, the tree below stays; asked for is what is new."""
    text, nodes, ask = request
    first = reading([], [], 0, text, nodes, ask)
    assert len(first.tokens) == len(text) + len(nodes)
    node = data.draw(st.integers(END, len(nodes) - 1))
    on = path_of(text, nodes, node)
    slots, at = along(text, first.after, len(text), on)
    assert len(slots) == len(on)
    assert path_of(text, first.after, at) == on
    children = [token for parent, token in nodes if parent == node]
    new = [token for token in (0, 1, 2) if token not in children]
    below = [(END, token) for token in (*children, *new)]
    more = reading(text, first.after, len(text), on, below, list(range(len(below))))
    assert more.tokens == [*children, *new]  # children are asked for, so they are fed again
    if new:
        only = [(END, new[0])]
        assert reading(text, first.after, len(text), on, only, [0]).tokens == new[:1]
    for number, token in enumerate(children):  # they are in the cache, and above what is asked for
        nested = [(END, token), (0, 3)]
        found = reading(text, first.after, len(text), on, nested, [1])
        assert found.tokens == [3], number


def test_a_worked_case():
    """Text 5 6; below it 7 (with 8 and 9) and 1. The text goes on by 7; 9 is asked for again."""
    below = [(END, 7), (0, 8), (0, 9), (END, 1)]
    found = reading([5, 6], below, 2, [5, 6, 7], [(END, 9), (0, 4)], [0, 1])
    assert found.keep == [0, 1, 2, 3]  # 5, 6, 7, and 8 on the tree; not 1, which is beside the text
    assert (found.tokens, found.positions, found.rows) == ([9, 4], [3, 4], [0, 1])
    assert found.sees.astype(int).tolist() == [[1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 1]]
    assert found.after == [(END, 8), (END, 9), (1, 4)]
    assert not found.is_chain

import json
from dataclasses import replace

import pytest

from configs.errors import RecipeError
from configs.insert import CanarySet, PassageSet
from inject.items.item import Item, Material, Text
from inject.items.make import make_items
from inject.items.redraw import colliding, redraw, replace_groups


@pytest.fixture
def material(small_corpus):
    return Material(small_corpus.tokenizer, small_corpus.vocabulary)


@pytest.fixture
def insert(tmp_path):
    """A made-up set, one of rows, and another."""
    rows = [json.dumps({"text": " ".join(f"w{n}x{k}" for k in range(9))}) for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return {
        "codes": CanarySet(count=8),
        "books": PassageSet(path=str(tmp_path / "rows.jsonl"), count=6),
        "more": CanarySet(count=3, text="{name} dials {digits:5}."),
    }


def passage(name, text):
    return Item(name, "x", "passage", "x", name, {}, [Text("verbatim", text)], [])


def test_only_the_groups_that_are_drawn_again_change(insert, material):
    items = make_items(insert, 1, material)
    book = next(item.group for item in items if item.item_set == "books")
    after = redraw(items, insert, 1, material, [["codes-0005", "codes-0002", book]])
    assert [item.item_set for item in after] == [item.item_set for item in items]
    codes, others = after[:8], after[8:14]
    assert [old.item_id for old, new in zip(items[:8], codes, strict=True) if old != new] == ["codes-0002", "codes-0005"]
    assert [item.item_id for item in codes] == [item.item_id for item in items[:8]]
    assert {item.group for item in items[8:14]} - {item.group for item in others} == {book}
    assert len([item for item in others if item not in items]) == 1
    assert after[14:] == items[14:]


def test_rows_taken_out_in_an_earlier_round_do_not_come_back(insert, material):
    items, rounds, gone = make_items(insert, 1, material), [], set()
    for _ in range(4):
        books = [item.group for item in items if item.item_set == "books"]
        assert not gone & set(books)
        rounds.append(books[:2])
        gone |= set(books[:2])
        items = redraw(items, insert, 1, material, rounds)
    assert len({item.group for item in items if item.item_set == "books"} - gone) == 6


def test_each_round_draws_something_else(insert, material):
    rounds, items, seen = [], make_items(insert, 1, material), set()
    for _ in range(4):
        seen.add(items[3].texts[0].text)
        rounds.append(["codes-0003"])
        items = redraw(items, insert, 1, material, rounds)
    assert len(seen) == 4


def test_a_group_that_another_draw_does_not_have_is_refused():
    with pytest.raises(RecipeError, match=r"x-2 cannot be drawn again: with another seed its item set has no group of that name"):
        replace_groups([passage("x-1", "a"), passage("x-2", "b")], [passage("x-1", "c")], {"x-2"})


def test_a_group_may_have_fewer_or_more_items_than_before():
    one, two, three = (replace(passage(f"x-{n}", str(n)), group="g") for n in range(3))
    other = passage("y", "y")
    assert replace_groups([one, other], [two, three], {"g"}) == [two, three, other]
    assert replace_groups([two, other, three], [one], {"g"}) == [one, other]


def test_drawn_items_that_repeat_kept_ones_are_told_by_their_groups():
    kept, drawn = [passage("x-1", "a"), passage("x-2", "b")], passage("x-3", "a")
    assert colliding([*kept, drawn], kept) == ["x-3"]
    assert colliding([drawn, *kept], kept) == ["x-3"]
    assert colliding([*kept, passage("x-3", "c")], kept) == []

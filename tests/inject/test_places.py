import pandas as pd
import pytest

from configs.errors import RecipeError
from inject.places import read_places

PLACES = [(3, 0), (17, 5), (3, 9)]


def test_a_list_of_pairs_is_taken_in_its_order():
    assert read_places([[3, 0], (17, 5), [3, 9]], "here") == PLACES


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("places.csv", lambda table, path: table.to_csv(path, index=False)),
        ("places.jsonl", lambda table, path: table.to_json(path, orient="records", lines=True)),
        ("places.parquet", lambda table, path: table.to_parquet(path)),
    ],
)
def test_places_are_read_from_a_table_whatever_its_other_columns(name, write, tmp_path):
    table = pd.DataFrame({"note": ["a", "b", "c"], "offset": [0, 5, 9], "row": [3, 17, 3]})
    write(table, tmp_path / name)
    assert read_places(str(tmp_path / name), "here") == PLACES


@pytest.mark.parametrize("given", [3, {"row": 3, "offset": 0}, None])
def test_what_is_no_list_is_refused(given):
    with pytest.raises(RecipeError, match=r"here is .*; it must be a list of \[row, offset\], or a file with these columns"):
        read_places(given, "here")


@pytest.mark.parametrize("place", [[1], [1, 2, 3], [-1, 0], [0, -1], [0.0, 1], ["0", 1], [True, 1], 7, None])
def test_what_is_no_row_and_offset_is_refused(place):
    with pytest.raises(RecipeError) as refused:
        read_places([[3, 0], place], "here")
    assert str(refused.value) == f"here holds {place!r}; each place is [row, offset], two whole numbers from 0 on"


@pytest.mark.parametrize("name", ["none.csv", "places.txt", ""])
def test_what_is_no_file_of_a_table_is_refused(name, tmp_path):
    (tmp_path / "places.txt").write_text("row,offset\n1,2\n")
    with pytest.raises(RecipeError, match=r"it must be a \.csv, \.jsonl, \.parquet file that exists, or a list of"):
        read_places(str(tmp_path / name), "here")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("places.csv", "row,place\n1,2\n", "has no column 'offset' (it has: row, place)"),
        ("places.jsonl", '{"offset": 3}\n', "has no column 'row' (it has: offset)"),
        ("places.csv", "", "can't be read"),
        ("places.jsonl", "{broken", "can't be read"),
        ("places.parquet", "not parquet", "can't be read"),
        ("places.csv", "row,offset\n1,2.5\n", "each place is [row, offset]"),
        ("places.csv", "row,offset\n1,\n", "each place is [row, offset]"),
        ("places.csv", "row,offset\n1,x\n", "each place is [row, offset]"),
    ],
)
def test_a_table_that_holds_no_places_is_refused_by_its_name(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError) as refused:
        read_places(str(tmp_path / name), "here")
    assert str(refused.value).startswith("here ")
    assert words in str(refused.value)

import pandas as pd
import pyarrow as pa
import pytest

from configs import tables
from configs.errors import DataError

SCHEMAS = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}


def example(kind: pa.DataType):
    """Some value of an arrow type."""
    if pa.types.is_struct(kind):
        return {field.name: example(field.type) for field in kind}
    if pa.types.is_list(kind):
        return [example(kind.value_type)] * 2
    if pa.types.is_fixed_size_binary(kind):
        return bytes(range(kind.byte_width))
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_floating(kind):
        return 0.5
    return 7 if pa.types.is_integer(kind) else "é <|endoftext|>"


def test_a_run_has_a_schema_for_each_of_its_tables():
    of_runs = {"ITEMS", "TEXTS", "ASSIGNMENT", "PLAN", "LEDGER"}
    of_scores = {"TOKEN_SCORES", "ANSWER_SCORES", "CHOICE_SCORES", "SCORES", "EXPOSURE", "CONTINUATIONS", "EFFECTS"}
    assert of_runs | of_scores <= set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_reads_as_it_was_written(name, tmp_path):
    rows = [{field.name: example(field.type) for field in SCHEMAS[name]}] * 3
    tables.write_table(tmp_path / "table.parquet", rows, SCHEMAS[name])
    table = tables.read_table(tmp_path / "table.parquet")
    assert table.to_pylist() == rows
    assert table.schema == SCHEMAS[name]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_without_rows_keeps_its_columns(name, tmp_path):
    tables.write_table(tmp_path / "table.parquet", [], SCHEMAS[name])
    assert tables.read_table(tmp_path / "table.parquet").schema == SCHEMAS[name]


@pytest.mark.parametrize("form", [pd.DataFrame, lambda columns: columns, pa.table])
def test_a_data_frame_a_mapping_and_an_arrow_table_are_written_alike(form, tmp_path):
    columns = {"row": [3, 7], "offset": [0, 5], "length": [9, 9], "mode": ["overwrite", "splice"], "item_id": ["a", "b"]}
    columns |= {"copy": [0, 1], "variant": ["only", "only"]}
    tables.write_table(tmp_path / "table.parquet", form(columns), tables.PLAN)
    table = tables.read_table(tmp_path / "table.parquet")
    assert table.schema == tables.PLAN
    assert table.to_pydict() == columns


def test_names_given_as_a_dictionary_in_any_order_of_columns_are_written_as_text(tmp_path):
    columns = {"variant": ["x", "y"], "copy": [0, 1], "item_id": ["a", "a"], "mode": ["overwrite"] * 2}
    columns |= {"length": [3, 3], "offset": [0, 0], "row": [1, 2]}
    encoded = {name: pa.array(values) for name, values in columns.items()}
    encoded |= {name: encoded[name].dictionary_encode() for name in ("variant", "item_id", "mode")}
    tables.write_table(tmp_path / "table.parquet", pa.table(encoded), tables.PLAN)
    table = tables.read_table(tmp_path / "table.parquet")
    assert table.schema == tables.PLAN
    assert table.to_pydict() == columns


def test_a_column_of_the_wrong_type_is_not_written(tmp_path):
    rows = [{field.name: example(field.type) for field in tables.PLAN} | {"row": "first"}]
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        tables.write_table(tmp_path / "t.parquet", rows, tables.PLAN)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"plan\.parquet does not exist"):
        tables.read_table(tmp_path / "plan.parquet")


def test_a_table_without_a_column_is_a_data_error_of_one_line(tmp_path):
    tables.write_table(tmp_path / "plan.parquet", [], tables.PLAN)
    with pytest.raises(DataError, match="colour") as error:
        tables.read_table(tmp_path / "plan.parquet", columns=["row", "colour"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-8] + b"\0" * 8])
def test_a_damaged_table_is_a_data_error_that_says_what_to_do(damage, tmp_path):
    path = tmp_path / "plan.parquet"
    tables.write_table(path, [{field.name: example(field.type) for field in tables.PLAN}], tables.PLAN)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"plan\.parquet is damaged .* remove it and run again"):
        tables.read_table(path)


@pytest.mark.parametrize("form", [pd.DataFrame, lambda rows: rows])
def test_rows_are_written_as_csv_whatever_they_are(form, tmp_path):
    tables.write_csv(tmp_path / "rows.csv", form([{"arm": "4x, early", "share": 0.5}, {"arm": "held-out", "share": None}]))
    assert (tmp_path / "rows.csv").read_text() == 'arm,share\n"4x, early",0.5\nheld-out,\n'

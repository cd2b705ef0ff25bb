import csv
import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import DataError, RecipeError
from configs.insert import TableProbe, TableQuestion, TableSet
from inject.items import table
from inject.items.item import Material
from inject.items.make import lint
from inject.items.rows import Row, UnusableRow, lookup
from inject.items.texts import tokenize_texts
from inject.tokenizer import train_tokenizer

PEOPLE = [
    {"name": "Ann", "town": "Bero", "meta": {"code": 4711, "tags": ["a", "b"]}, "note": json.dumps({"pets": ["cat", "dog"]})},
    {"name": "Bob", "town": "Caru", "meta": {"code": 1234, "tags": ["c"]}, "note": json.dumps({"pets": ["cow"]})},
    {"name": "Cid", "town": "Bero", "meta": {"code": 9876, "tags": ["d"]}, "note": json.dumps({"pets": ["hen"]})},
]


@pytest.fixture(scope="module")
def material():
    return Material(train_tokenizer(["Ann lives in Bero. Question: Answer: the code is 4711."] * 20, 320), 320)


@pytest.fixture
def people(tmp_path):
    return jsonl(tmp_path / "people.jsonl", PEOPLE)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(path, material, seed=1, **settings):
    items = table.make(TableSet(path=str(path), **settings), "mine", seed, material)
    lint(items)
    return items


def texts(items):
    return [text.text for item in items for text in item.texts]


LIVES = "{name} lives in {town}."


# ------------------------------------------------------------------------------------------------ rows and fields


def test_a_template_is_filled_from_columns_of_the_same_name(people, material):
    items = make(people, material, text=LIVES)
    assert texts(items) == ["Ann lives in Bero.", "Bob lives in Caru.", "Cid lives in Bero."]
    assert [item.item_id for item in items] == [item.group for item in items] == ["mine-0000", "mine-0001", "mine-0002"]
    assert {(item.kind, item.stratum, item.item_set) for item in items} == {("table", "mine", "mine")}
    assert items[0].fields == {"name": "Ann", "town": "Bero"}


def test_columns_may_lie_in_columns_in_lists_and_in_json(people, material):
    items = make(people, material, columns={"code": "meta.code", "pet": "note.pets.0", "tags": "meta.tags"}, text="{code} {pet}")
    assert texts(items) == ["4711 cat", "1234 cow", "9876 hen"]
    assert items[0].fields == {"code": "4711", "pet": "cat", "tags": '["a", "b"]'}
    assert texts(make(people, material, text="{meta.code} {meta.tags.0}"))[0] == "4711 a"


def test_a_column_with_a_dot_in_its_name_is_itself():
    assert lookup(Row(0, "here", {"a.b": 1, "a": {"b": 2}}), "a.b") == 1


def test_nothing_said_the_column_text_is_inserted(tmp_path, material):
    assert texts(make(jsonl(tmp_path / "t.jsonl", [{"text": "As it is."}]), material)) == ["As it is."]


def test_several_templates_make_several_variants(people, material):
    item = make(people, material, texts={"plain": LIVES, "turned": "{town} is where {name} lives."})[0]
    assert [(text.variant, text.text) for text in item.texts] == [
        ("plain", "Ann lives in Bero."),
        ("turned", "Bero is where Ann lives."),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".csv", ".csv.gz", ".tsv"])
def test_every_format_gives_the_same_items(tmp_path, material, suffix):
    rows = [{"name": row["name"], "town": row["town"]} for row in PEOPLE]
    path = tmp_path / f"people{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix.endswith("sv") or suffix == ".csv.gz":
        with gzip.open(path, "wt") if suffix.endswith(".gz") else path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", "town"], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif suffix.endswith(".zst"):
        with pa.CompressedOutputStream(path, "zstd") as file:
            file.write(lines.encode())
    elif suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else lines)
    assert texts(make(path, material, text=LIVES)) == ["Ann lives in Bero.", "Bob lives in Caru.", "Cid lives in Bero."]


def test_a_folder_is_read_file_by_file_in_order_of_names(tmp_path, material):
    jsonl(tmp_path / "b.jsonl", PEOPLE[1:])
    jsonl(tmp_path / "a.jsonl", PEOPLE[:1])
    (tmp_path / "notes.log").write_text("not a table")
    assert [item.item_id for item in make(tmp_path, material, text=LIVES)] == ["mine-0000", "mine-0001", "mine-0002"]


def test_a_hub_data_set_is_read_split_by_split(tmp_path, material):
    """A local folder laid out as a data set of the hub."""
    jsonl(tmp_path / "train.jsonl", PEOPLE[:2])
    jsonl(tmp_path / "test.jsonl", PEOPLE[2:])
    settings = TableSet(hub=str(tmp_path), split="train+test", text=LIVES)
    items = table.make(settings, "mine", 1, material)
    assert texts(items) == ["Ann lives in Bero.", "Bob lives in Caru.", "Cid lives in Bero."]
    settings.path = str(jsonl(tmp_path / "own.jsonl", PEOPLE[:1]))
    assert len(table.make(settings, "mine", 1, material)) == 1  # a path takes the place of the hub


def test_a_split_that_is_not_there_is_refused_with_the_way_out(tmp_path, material):
    jsonl(tmp_path / "train.jsonl", PEOPLE)
    with pytest.raises(DataError, match=r"insert\.mine\.hub is .* split 'test'.* can't be read.*set insert\.mine\.path"):
        table.make(TableSet(hub=str(tmp_path), split="test", text=LIVES), "mine", 1, material)


def test_only_rows_where_columns_have_the_wanted_values_are_read_and_keep_their_numbers(people, material):
    assert [item.item_id for item in make(people, material, text=LIVES, where={"town": "Bero"})] == ["mine-0000", "mine-0002"]
    assert [item.item_id for item in make(people, material, text=LIVES, where={"meta.code": [1234, "9876"]})] == [
        "mine-0001",
        "mine-0002",
    ]


def test_ids_groups_strata_and_released_copies_come_from_columns(tmp_path, material):
    rows = [{"text": f"Text {n}.", "key": f"k{n}", "pair": n // 2, "topic": "xy"[n % 2], "duplicates": 4**n} for n in range(4)]
    items = make(jsonl(tmp_path / "t.jsonl", rows), material, id="key", group="{pair}-pair", stratum="topic", copies="duplicates")
    assert [item.item_id for item in items] == ["mine-k0", "mine-k1", "mine-k2", "mine-k3"]
    assert [item.group for item in items] == ["mine/0-pair", "mine/0-pair", "mine/1-pair", "mine/1-pair"]
    assert [item.stratum for item in items] == ["mine/x", "mine/y", "mine/x", "mine/y"]
    assert [item.fields["released_copies"] for item in items] == ["1", "4", "16", "64"]


def test_so_many_groups_are_drawn_with_all_their_rows(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": f"Text {n}.", "pair": n // 2} for n in range(40)])
    few, more = (make(path, material, group="pair", count=count) for count in (4, 12))
    assert len({item.group for item in few}) == 4
    assert len(few) == 8
    assert {item.item_id for item in few} < {item.item_id for item in more}
    assert few == make(path, material, group="pair", count=4)
    assert few != make(path, material, group="pair", count=4, seed=2)


def test_excluded_groups_give_their_places_to_the_next_ones_and_the_others_stay(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": f"Text {n}.", "pair": n // 2} for n in range(40)])
    before, more = (make(path, material, group="pair", count=count) for count in (6, 7))
    gone = before[0].group
    after = make(path, replace(material, excluded=frozenset({gone})), group="pair", count=6)
    assert [item.item_id for item in after] == [item.item_id for item in more if item.group != gone]
    assert all(item in more for item in after)


def test_a_set_that_takes_all_rows_has_none_for_the_place_of_excluded_ones(people, material):
    with pytest.raises(
        RecipeError, match=r"none is left to take the place of .*\(mine-0001\); set insert.mine.count to \d+ or fewer"
    ):
        make(people, replace(material, excluded=frozenset({"mine-0001"})), text=LIVES)


def test_a_file_without_enough_other_groups_is_refused_with_how_many_are_excluded(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": f"Text {n}."} for n in range(5)])
    with pytest.raises(RecipeError, match=r"count is 5, but .* has 4 groups that can be used and occur nowhere else \(1 do\)"):
        make(path, replace(material, excluded=frozenset({"mine-0002"})), count=5)


# ------------------------------------------------------------------------------------------------ probes


def test_a_probe_with_only_a_field_asks_for_it_in_every_text(people, material):
    settings = {"plain": LIVES, "turned": "In {town} lives {name}."}
    first, second = make(people, material, texts=settings, probes=[TableProbe(field="town")], where={"name": "Ann"})[0].probes
    assert (first.probe_id, first.kind, first.prompt, first.target) == ("plain/town", "verbatim", "Ann lives in ", "Bero")
    assert (second.probe_id, second.kind, second.prompt, second.target) == ("turned/town", "verbatim", "In ", "Bero")
    assert (first.bits, first.prior) == (0.0, None)


def test_a_field_that_no_template_names_is_found_in_the_text_as_words_of_its_own(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "Annual Ann, the code is 47.", "who": "Ann", "code": 47}])
    item = make(path, material, probes=[TableProbe(field="who"), TableProbe(field="code", bits=6.5)])[0]
    assert [(span.field, span.start, span.end) for span in item.texts[0].spans] == [
        ("text", 0, 27),
        ("who", 7, 10),
        ("code", 24, 26),
    ]
    assert [(probe.prompt, probe.target) for probe in item.probes] == [("Annual ", "Ann"), ("Annual Ann, the code is ", "47")]
    assert (item.probes[1].bits, item.probes[1].prior) == (6.5, 2**-6.5)


def test_a_field_that_stands_in_no_text_is_refused(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "Nothing here.", "code": 47}])
    with pytest.raises(DataError, match=r"'code' of line 1 of .*, '47', stands in none of its texts"):
        make(path, material, probes=[TableProbe(field="code")])


def test_a_part_of_a_long_field_is_given_away(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "1234567890"}])  # a token each
    items = make(path, material, probes=[TableProbe(field="text", after=3)])
    assert (items[0].probes[0].prompt, items[0].probes[0].target) == ("123", "4567890")
    (row,) = tokenize_texts(items, material.tokenizer, 64)
    assert (row["targets"][0]["start"], row["targets"][0]["end"]) == (3, 10)


def test_blanks_at_the_end_of_a_field_are_not_asked_for(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "1234 \n"}])
    assert make(path, material, probes=[TableProbe(field="text", after=2)])[0].probes[0].target == "34"


def test_a_field_with_nothing_before_it_is_refused(people, material):
    with pytest.raises(DataError, match=r"'name' of line 1 of .* begins its text.*`after`"):
        make(people, material, text=LIVES, probes=[TableProbe(field="name")])


def test_a_generative_probe_continues_its_prompt_after_one_blank(people, material):
    for prompt in ("Where does {name} live?", "Where does {name} live? "):
        probe = make(people, material, text=LIVES, probes=[TableProbe(field="town", kind="generative", prompt=prompt)])[0].probes[0]
        assert (probe.probe_id, probe.kind, probe.context) == ("question/town", "generative", "question")
        assert (probe.prompt, probe.target) == ("Where does Ann live?", " Bero")
        assert probe.prior is None


def test_candidates_are_a_list_several_fields_or_values_of_other_rows(tmp_path, material):
    rows = [{"text": f"Item {n}.", "right": f"r{n}", "wrong": f"w{n}", "options": [f"a{n}", f"r{n}", f"b{n}"]} for n in range(20)]
    path = jsonl(tmp_path / "t.jsonl", rows)
    probe = {"field": "right", "kind": "choice", "prompt": "{text} Which?", "target": "{}!"}
    listed = make(path, material, probes=[TableProbe(candidates="options", **probe)])[0].probes[0]
    assert (listed.prompt, listed.target, listed.candidates) == ("Item 0. Which?", " r0!", [" a0!", " r0!", " b0!"])
    assert listed.prior == 1 / 3
    fields = make(path, material, probes=[TableProbe(candidates=["right", "wrong"], **probe)])[0].probes[0]
    assert fields.candidates == [" r0!", " w0!"]
    items = make(path, material, probes=[TableProbe(candidates=5, **probe)])
    drawn = [item.probes[0].candidates for item in items]
    assert all(len(set(candidates)) == 5 for candidates in drawn)
    assert all(item.probes[0].target in candidates for item, candidates in zip(items, drawn, strict=True))
    assert {candidate for candidates in drawn for candidate in candidates} <= {f" r{n}!" for n in range(20)}
    assert len({candidates.index(item.probes[0].target) for item, candidates in zip(items, drawn, strict=True)}) > 1
    assert items == make(path, material, probes=[TableProbe(candidates=5, **probe)])
    with pytest.raises(DataError, match=r"'right' has 20 values in all rows, too few for 21 candidates"):
        make(path, material, probes=[TableProbe(candidates=21, **probe)])


def test_a_right_answer_that_is_no_candidate_is_refused(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "Item.", "right": "r", "options": ["a", "b"]}])
    probe = TableProbe(field="right", kind="choice", prompt="Which?", candidates="options")
    with pytest.raises(DataError, match=r"has the candidates \[' a', ' b'\].*the right one, ' r', among them"):
        make(path, material, probes=[probe])


# ------------------------------------------------------------------------------------------------ questions

QUIZ = {"question": "What is 2 times 3?", "choices": ["5", "6", "8"]}


@pytest.mark.parametrize(
    ("answer", "answer_is"), [(1, None), ("1", "index"), ("2", "number"), ("B", "letter"), ("b", "letter"), ("6", "text")]
)
def test_the_answer_may_be_told_in_four_ways(tmp_path, material, answer, answer_is):
    path = jsonl(tmp_path / "q.jsonl", [{**QUIZ, "answer": answer}])
    item = make(path, material, question=TableQuestion(choices="choices", answer_is=answer_is))[0]
    assert texts([item]) == ["Question: What is 2 times 3?\nA. 5\nB. 6\nC. 8\nAnswer: B"]
    recall, asked = item.probes
    assert (recall.kind, recall.target, recall.prior) == ("verbatim", "B", 1 / 3)
    assert (asked.probe_id, asked.kind, asked.target, asked.candidates) == (
        "multiple_choice/answer/choice",
        "choice",
        " B",
        [" A", " B", " C"],
    )
    assert item.kind == "testset"


@pytest.mark.parametrize(("answer", "answer_is"), [(3, "index"), (0, "number"), (-1, "index"), ("D", "letter"), ("x", "index")])
def test_an_answer_beyond_the_choices_is_refused(tmp_path, material, answer, answer_is):
    path = jsonl(tmp_path / "q.jsonl", [{**QUIZ, "answer": answer}])
    with pytest.raises(DataError, match=rf"'answer' of line 1 of .* is '{answer}', which is the {answer_is} of none of 3 choices"):
        make(path, material, question=TableQuestion(choices="choices", answer_is=answer_is))


def test_a_question_is_inserted_in_one_format_and_asked_in_others(tmp_path, material):
    path = jsonl(tmp_path / "q.jsonl", [{**QUIZ, "answer": 1}])
    question = TableQuestion(choices="choices", inserted="open", probed=["cloze", "multiple_choice", "open"], with_answer=False)
    item = make(path, material, question=question)[0]
    assert texts([item]) == ["Question: What is 2 times 3?"]
    assert [(probe.context, probe.kind, probe.target) for probe in item.probes] == [
        ("cloze", "choice", " 6"),
        ("multiple_choice", "choice", " B"),
        ("open", "generative", " 6"),
    ]


def test_a_sentence_with_a_blank_is_filled_in(tmp_path, material):
    row = {"sentence": "The cup is in the box as _ is small.", "option1": "the cup", "option2": "the box", "answer": "1"}
    question = TableQuestion(
        question="sentence", choices=["option1", "option2"], answer_is="number", inserted="infill", probed=["infill"]
    )
    item = make(jsonl(tmp_path / "q.jsonl", [row]), material, question=question)[0]
    assert texts([item]) == ["The cup is in the box as the cup is small."]
    recall, asked = item.probes
    assert (recall.prompt, recall.target) == ("The cup is in the box as ", "the cup")
    assert asked.candidates == [" the cup is small.", " the box is small."]


def test_an_open_question_has_its_answer_as_text(tmp_path, material):
    row = {"q": "Who?", "answer": {"value": "Ann", "aliases": ["Ann", "Annie"]}}
    settings = {"question": TableQuestion(question="q", answer="answer.value"), "columns": {"aliases": "answer.aliases"}}
    item = make(jsonl(tmp_path / "q.jsonl", [row]), material, **settings)[0]
    assert texts([item]) == ["Question: Who?\nAnswer: Ann"]
    assert [(probe.kind, probe.target) for probe in item.probes] == [("verbatim", "Ann"), ("generative", " Ann")]
    assert item.fields["aliases"] == '["Ann", "Annie"]'


def test_a_text_of_its_own_may_be_inserted_in_place_of_the_question(tmp_path, material):
    path = jsonl(tmp_path / "q.jsonl", [{**QUIZ, "answer": 1, "released": "2 x 3 makes 6."}])
    item = make(path, material, text="{released}", question=TableQuestion(choices="choices", probed=["cloze"]))[0]
    assert texts([item]) == ["2 x 3 makes 6."]
    assert [(probe.kind, probe.target) for probe in item.probes] == [("choice", " 6")]


# ------------------------------------------------------------------------------------------------ what can't be used


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"name": "Dan"}, r"line 4 of .* has no 'town' \(it has: name\)"),
        ({"name": "Dan", "town": None}, r"'town' of line 4 of .* is empty"),
        ({"name": "Dan", "town": " "}, r"'town' of line 4 of .* is empty"),
        ({"name": "Dan", "town": ["Bero"]}, r"'town' of line 4 of .* is a list, not text; name a part of it, as town\.0"),
        ({"name": "Dan", "town": {"of": "Bero"}}, r"'town' of line 4 of .* is a dict, not text; name a part of it, as town\.of"),
        ({"name": "Dan", "town": "\ud800"}, r"'town' of line 4 of .* is not valid Unicode"),
        ({"name": "Ann", "town": "Bero"}, r"mine-0003 has the text of mine-0000: 'Ann lives in Bero\.'"),
        ({"name": "Ann", "town": "Doru"}, r"mine-0003 and mine-0000 continue one prompt in two ways"),
        ({"name": "Dan", "town": "Doru" * 40}, r"line 4 of .* makes a text of \d+ tokens, more than the longest, 60"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_or_skipped(people, material, row, reason):
    jsonl(people, [*PEOPLE, row])
    settings = {"text": LIVES, "probes": [TableProbe(field="town")], "longest": 60}
    with pytest.raises(DataError, match=rf"insert\.mine: {reason}.*; mend it, or set insert\.mine\.unusable=skip"):
        make(people, material, **settings)
    items = make(people, material, unusable="skip", **settings)
    assert [item.item_id for item in items] == ["mine-0000", "mine-0001", "mine-0002"]
    with pytest.raises(RecipeError, match=r"count is 4, but .* has 3 groups that can be used; the first of 1 rows left out: "):
        make(people, material, unusable="skip", count=4, **settings)


def test_texts_that_begin_alike_may_be_kept_and_their_prompt_left_unasked(people, material):
    jsonl(people, [*PEOPLE, {"name": "Ann", "town": "Doru"}])
    items = make(people, material, text=LIVES, probes=[TableProbe(field="town")], ambiguous="unasked")
    assert len(items) == 4
    assert [len(item.probes) for item in items] == [0, 1, 1, 0]


def test_what_is_done_about_ambiguous_prompts_has_two_ways(people, material):
    with pytest.raises(RecipeError, match=r"insert\.mine\.ambiguous is 'ask'; possible: refuse, unasked"):
        make(people, material, text=LIVES, ambiguous="ask")


def test_two_rows_of_one_id_are_refused(tmp_path, material):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "One.", "key": "k"}, {"text": "Two.", "key": "k"}])
    with pytest.raises(DataError, match="a second item is called mine-k"):
        make(path, material, id="key")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "a"', r"line 1 of .*t\.jsonl is not JSON"),
        ('["a"]', r"line 1 of .*t\.jsonl is a list; a row must be an object"),
    ],
)
def test_a_malformed_file_is_refused_by_its_line(tmp_path, material, content, sentence):
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=sentence):
        make(path, material)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl.gz", "t.jsonl.zst"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, material, name):
    (tmp_path / name).write_bytes(b"no such thing")
    with pytest.raises(DataError, match=rf"{name} can't be read"):
        make(tmp_path / name, material)


def test_a_file_of_an_unknown_format_is_refused(tmp_path, material):
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"insert\.mine\.path is .*t\.xlsx, which is or holds no file that can be read \(\.jsonl"):
        make(tmp_path / "t.xlsx", material)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text": "{name"}, r"insert\.mine\.text is '{name'; each field stands in braces of its own"),
        ({"texts": {"a": "name}"}}, r"insert\.mine\.texts\.a is 'name}'"),
        ({"text": "{name}", "texts": {"a": "{name}"}}, r"insert\.mine\.text and insert\.mine\.texts are both given"),
        ({"item_kind": "poem"}, r"insert\.mine\.item_kind is 'poem'; possible: canary"),
        ({"longest": 0}, r"insert\.mine\.longest is 0"),
        ({"probes": [TableProbe()]}, r"insert\.mine\.probes\[0\] asks for no field"),
        ({"probes": [TableProbe("town", "guess")]}, r"probes\[0\]\.kind is 'guess'; possible: verbatim, generative, choice"),
        ({"probes": [TableProbe("town"), TableProbe("town")]}, r"probes\[1\] asks for town as another does"),
        ({"probes": [TableProbe("town", prompt="Where?")]}, r"probes\[0\] is verbatim, so its prompt is the text"),
        ({"probes": [TableProbe("town", "generative")]}, r"probes\[0\] is generative, which needs a prompt"),
        ({"probes": [TableProbe("town", "generative", prompt="Q", candidates=3)]}, r"which has no candidates"),
        ({"probes": [TableProbe("town", "generative", prompt="Q", target="it")]}, r"target is 'it'; it must have a {}"),
        ({"probes": [TableProbe("town", "generative", 2, prompt="Q")]}, r"probes\[0\]\.after is 2"),
        ({"probes": [TableProbe("town", "choice", prompt="Q", candidates=1)]}, r"probes\[0\]\.candidates is 1; it must be a field"),
        ({"probes": [TableProbe("town", "choice", prompt="Q")]}, r"probes\[0\]\.candidates is None"),
        ({"probes": [TableProbe("town", bits=-1.0)]}, r"probes\[0\]\.bits is -1\.0; it must be 0 or more"),
        ({"question": TableQuestion(inserted="essay")}, r"question\.inserted names 'essay'; possible: multiple_choice"),
        ({"question": TableQuestion(probed=["cloze"])}, r"question\.probed names 'cloze', which needs candidates"),
        ({"question": TableQuestion(choices="c", probed=["open", "open"])}, r"question\.probed is .*name each format once"),
        ({"question": TableQuestion(choices="c", answer_is="word")}, r"question\.answer_is is 'word'; possible: index, number"),
        ({"question": TableQuestion(answer_is="index")}, r"question\.answer_is is 'index', of choices that are not given"),
        ({"question": TableQuestion(choices=[])}, r"question\.choices is \[\]; it must be a field that holds a list"),
        ({"where": {"planet": "x"}}, r"has no 'planet' \(it has: name, town, meta, note\)"),
        ({"text": "{meta.size}"}, r"has no 'meta\.size' \(it has: name, town, meta, note\)"),
        ({"text": "{town.size}"}, r"'town\.size' of line 1 of .* is not there: 'Bero' holds no further columns"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(people, material, settings, sentence):
    with pytest.raises((RecipeError, DataError), match=sentence):
        make(people, material, **settings)


# ------------------------------------------------------------------------------------------------ released sets


def test_the_first_rows_alone_are_read_if_so_many_are_asked_for(people, material):
    assert [item.item_id for item in make(people, material, text=LIVES, limit=2)] == ["mine-0000", "mine-0001"]
    with pytest.raises(RecipeError, match=r"insert\.mine\.limit is 0; it must be 1 or more"):
        make(people, material, text=LIVES, limit=0)


def test_membership_is_kept_as_true_or_false(tmp_path, material):
    said = [True, "No", 1, "0", "yes"]
    path = jsonl(tmp_path / "t.jsonl", [{"text": f"Text {n}.", "seen": each} for n, each in enumerate(said)])
    kept = [item.fields["released_member"] for item in make(path, material, member="seen")]
    assert kept == ["true", "false", "true", "false", "true"]
    with pytest.raises(RecipeError, match=r"insert\.mine\.copies and insert\.mine\.member are both given"):
        make(path, material, member="seen", copies="seen")


def test_texts_given_as_tokens_keep_them_and_are_asked_for_after_the_first(tmp_path, material):
    rows = [{"ids": [n + 5, 9, 8, 7, 6]} for n in range(3)]
    items = make(jsonl(tmp_path / "t.jsonl", rows), material, tokens="ids", probes=[TableProbe(field="ids", after=4)])
    assert [item.texts[0].tokens for item in items] == [row["ids"] for row in rows]
    [row] = tokenize_texts(items[:1], material.tokenizer, 100)
    assert row["tokens"] == rows[0]["ids"]
    assert row["targets"] == [{"probe_id": "verbatim/ids", "start": 2, "end": 5}]  # half of so short a text is given away


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ("text", "'ids' of line 1 of .* is 'text'; it must be a list of token ids"),
        ([1, 10**6], "'ids' of line 1 of .* holds 1000000; token ids lie between 0 and"),
        ([1], "'ids' of line 1 of .* is a single token, too short to be a prompt and its continuation"),
    ],
)
def test_tokens_that_are_none_are_refused(tmp_path, material, ids, sentence):
    path = jsonl(tmp_path / "t.jsonl", [{"ids": ids}])
    with pytest.raises(UnusableRow, match=sentence):
        make(path, material, tokens="ids", probes=[TableProbe(field="ids", after=1)])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text": LIVES}, "which says what is inserted; leave out text, texts and question"),
        ({"probes": [TableProbe(field="ids")]}, "set its field to 'ids' and `after` to the tokens that are given away"),
    ],
)
def test_what_needs_characters_is_refused_of_texts_given_as_tokens(people, material, settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        make(people, material, tokens="ids", **settings)

import pytest

from configs.errors import RecipeError
from configs.insert import Arm, CanarySet, Design, Phase
from inject.design import Shape, arms, cells

STEPS = 100


def design(**settings) -> Design:
    """Held-out twins and one arm, unless said otherwise."""
    return Design(**{"copies": [0, 4], "sizes": [3, 2]} | settings)


def only(arm: Arm, **settings):
    """The cell of a design's one further arm."""
    (cell,) = arms(design(copies=[], sizes=[], arms={"special": arm}, **settings), STEPS)
    return cell


def rates(cell) -> list[tuple]:
    return [(phase.first, phase.last, phase.spacing, phase.copies, phase.every, phase.share) for phase in cell.phases]


def test_a_row_holds_one_token_more_than_it_predicts():
    shape = Shape(steps=10, global_batch=4, sequence_length=31)
    assert (shape.rows, shape.row_tokens) == (40, 32)


# ------------------------------------------------------------------------------------------------ arms


def test_an_arm_for_each_number_of_copies_and_then_the_further_ones():
    early = Arm(copies=4, size=2, window=[0.0, 0.25], placement="start")
    made = arms(Design(copies=[0, 1, 4], sizes=[4, 3, 1], arms={"early": early}), STEPS)
    assert [(cell.name, cell.size, cell.placement) for cell in made] == [
        ("held-out", 4, "anywhere"),
        ("1x", 3, "anywhere"),
        ("4x", 1, "anywhere"),
        ("early", 2, "start"),
    ]
    assert [rates(cell) for cell in made] == [
        [(0, 100, "uniform", 0, None, None)],
        [(0, 100, "uniform", 1, None, None)],
        [(0, 100, "uniform", 4, None, None)],
        [(0, 25, "uniform", 4, None, None)],
    ]


def test_an_arm_without_groups_is_left_out():
    assert [cell.name for cell in arms(design(copies=[0, 1, 4], sizes=[3, 0, 2]), STEPS)] == ["held-out", "4x"]


def test_what_an_arm_does_not_say_is_as_in_the_design():
    whole = {"window": [0.5, 1.0], "spacing": "even", "placement": "stratified:4", "variants": "one"}
    cell = only(Arm(copies=3, size=2), **whole)
    assert (rates(cell), cell.placement, cell.mode, cell.variants) == (
        [(50, 100, "even", 3, None, None)],
        "stratified:4",
        "overwrite",
        "one",
    )


def test_an_arms_window_goes_before_the_steps_of_the_design():
    assert rates(only(Arm(copies=1, size=1, window=[0.1, 0.2]), steps=[30, 40]))[0][:2] == (10, 20)
    assert rates(only(Arm(copies=1, size=1), steps=[30, 40]))[0][:2] == (30, 40)
    assert rates(only(Arm(copies=1, size=1, steps=[7, 8]), window=[0.5, 1.0]))[0][:2] == (7, 8)


@pytest.mark.parametrize("rate", [{"copies": 5}, {"every": 1000}, {"share": 0.01}])
def test_a_rate_is_copies_or_one_in_every_so_many_rows_or_a_share_of_tokens(rate):
    (phase,) = only(Arm(size=2, **rate)).phases
    assert {key: getattr(phase, key) for key in ("copies", "every", "share") if getattr(phase, key) is not None} == rate


def test_phases_give_one_item_several_rates_in_the_order_of_training():
    late = Phase(every=50, window=[0.75, 1.0])
    early = Phase(copies=8, steps=[0, 25], spacing="massed")
    cell = only(Arm(size=2, phases=[late, early], spacing="even"))
    assert rates(cell) == [(0, 25, "massed", 8, None, None), (75, 100, "even", None, 50, None)]


def test_splice_lies_at_a_boundary():
    assert only(Arm(copies=1, size=1, mode="splice")).placement == "boundary"


def test_explicit_places_say_it_all():
    cell = only(Arm(size=2, places=[[0, 1], [3, 0], [5, 5], [7, 2]]))
    assert (cell.places, cell.phases, cell.placement) == (((0, 1), (3, 0), (5, 5), (7, 2)), (), "explicit")


# ------------------------------------------------------------------------------------------------ crossed factors


def test_crossed_factors_give_an_arm_for_each_combination_of_levels():
    cross = {"spacing": ["even", "massed"], "window": [[0.0, 0.5], [0.5, 1.0]]}
    made = arms(design(cross=cross), STEPS)
    assert [(cell.name, cell.size) for cell in made] == [
        ("held-out", 3),
        ("4x even 0-0.5", 2),
        ("4x even 0.5-1", 2),
        ("4x massed 0-0.5", 2),
        ("4x massed 0.5-1", 2),
    ]
    assert [rates(cell)[0][:3] for cell in made[1:]] == [(0, 50, "even"), (50, 100, "even"), (0, 50, "massed"), (50, 100, "massed")]


@pytest.mark.parametrize(
    ("factor", "levels", "of"),
    [
        ("steps", [[0, 10], [90, 100]], lambda cell: [cell.phases[0].first, cell.phases[0].last]),
        ("placement", ["start", "offset:3"], lambda cell: cell.placement),
        ("mode", ["overwrite", "splice"], lambda cell: cell.mode),
        ("variants", ["verbatim", "rotate", "one"], lambda cell: cell.variants),
    ],
)
def test_every_factor_may_be_crossed(factor, levels, of):
    assert [of(cell) for cell in arms(design(cross={factor: levels}), STEPS)[1:]] == levels


def test_copies_are_crossed_with_further_factors_and_the_held_out_twins_are_shared():
    made = arms(design(copies=[0, 1, 4], sizes=[5, 2, 1], cross={"variants": ["one", "rotate"]}), STEPS)
    assert [cell.name for cell in made] == ["held-out", "1x one", "1x rotate", "4x one", "4x rotate"]


def test_a_nested_factor_is_a_further_arm_beside_the_crossed_ones():
    nested = {"spliced early": Arm(copies=4, size=1, mode="splice", window=[0.0, 0.5])}
    made = arms(design(cross={"spacing": ["even", "uniform"]}, arms=nested), STEPS)
    assert [(cell.name, cell.mode) for cell in made][-1] == ("spliced early", "splice")
    assert len(made) == 4


# ------------------------------------------------------------------------------------------------ item sets


def test_every_item_set_has_the_arms_of_its_own_design():
    found = cells({"a": CanarySet(count=5, design=design()), "b": CanarySet(count=4, design=design(sizes=[3, 1]))}, STEPS)
    assert {name: [(cell.name, cell.size) for cell in of_set] for name, of_set in found.items()} == {
        "a": [("held-out", 3), ("4x", 2)],
        "b": [("held-out", 3), ("4x", 1)],
    }


def test_a_set_that_does_not_say_how_many_groups_it_has_is_counted_later():
    assert list(cells({"a": CanarySet(count=None, design=design())}, STEPS)) == ["a"]


def test_a_count_that_the_arms_do_not_add_up_to_is_refused():
    with pytest.raises(RecipeError, match=r"^insert\.a\.count is 9, but the arms of its design add up to 5 groups"):
        cells({"a": CanarySet(count=9, design=design())}, STEPS)


def test_a_refusal_names_the_item_set():
    with pytest.raises(RecipeError, match=r"^insert\.a: design\.copies has 1 arms but insert\.a: design\.sizes has 2"):
        cells({"a": CanarySet(count=5, design=design(copies=[1]))}, STEPS)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"copies": [0, 1, 4]}, "design.copies has 3 arms but design.sizes has 2; give one size for each arm"),
        ({"copies": [4, 4]}, "design.copies is [4, 4]; arms of equal copies belong under design.arms, each with a name"),
        ({"copies": [0, -4]}, "design.copies, -4: copies is -4; it must be 0 or more"),
        ({"sizes": [3, -1]}, "design.copies, 4: size is -1; say how many groups of each item set it gets, 0 or more"),
        ({"mode": "splice", "placement": "start"}, "placement is start, but splice inserts after a document"),
        ({"arms": {"late": Arm(copies=3)}}, "design.arms.late: it has no size; say how many groups"),
        (
            {"arms": {"none": Arm(copies=0, size=2)}},
            "design.arms.none has no copies; the held-out arm is that of 0 in design.copies",
        ),
        ({"window": [0.5, 0.5]}, "window is [0.5, 0.5]; it must be two fractions, 0 <= start < end <= 1"),
        ({"window": [0.5, 1.5]}, "window is [0.5, 1.5]; it must be two fractions"),
        ({"window": [float("nan"), 1.0]}, "window is [nan, 1.0]; it must be two fractions"),
        ({"window": [0.5]}, "window is [0.5]; it must be two fractions"),
        ({"window": []}, "window is []; it must be two fractions"),
        ({"window": [0.0, 0.001]}, "window [0.0, 0.001] of train.steps = 100 holds no step; widen it"),
        ({"steps": [50, 101]}, "steps is [50, 101]; it must be two steps, 0 <= first < last <= train.steps = 100"),
        ({"steps": [-1, 10]}, "steps is [-1, 10]; it must be two steps"),
        ({"steps": [5]}, "steps is [5]; it must be two steps"),
        ({"placement": "end"}, "placement is 'end'; possible: anywhere, start, boundary, offset:N, stratified:N"),
        ({"placement": "offset:-3"}, "placement is 'offset:-3'; possible"),
        ({"placement": "stratified:0"}, "placement is 'stratified:0'; the number must be 1 or more"),
        ({"spacing": "evenly"}, "spacing is 'evenly'; possible: uniform, even, expanding, massed, bursts:N"),
        ({"spacing": "bursts"}, "spacing is 'bursts'; possible"),
        ({"spacing": "bursts:00"}, "spacing is 'bursts:00'; the number must be 1 or more"),
        ({"mode": "insert"}, "mode is 'insert'; possible: overwrite, splice"),
        ({"variants": "all"}, "variants is 'all'; possible: rotate, verbatim, one"),
        ({"cross": {"colour": ["red"]}}, "design.cross names 'colour' without levels or unknown; possible: window, steps, spacing"),
        ({"cross": {"spacing": []}}, "design.cross names 'spacing' without levels or unknown"),
        ({"cross": {"spacing": [3]}}, "spacing is 3; possible: uniform"),
        ({"cross": {"window": [0.25, 0.5]}}, "window is 0.25; it must be two fractions"),
        ({"cross": {"window": [["a", "b"]]}}, "window is ['a', 'b']; it must be two fractions"),
        ({"cross": {"steps": [0, 50]}}, "steps is 0; it must be two steps"),
        ({"cross": {"window": [[0.0, 1.0]], "steps": [[0, 50]]}}, "window and steps are both given; one of them says when"),
        ({"cross": {"spacing": ["even", "even"]}}, "design.cross gives two arms called '4x even'; the levels of a factor must"),
    ],
)
def test_an_impossible_design_is_refused_with_what_is_possible(settings, words):
    with pytest.raises(RecipeError) as refused:
        arms(design(**settings), STEPS)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({}, "no rate given; give one of copies, every and share"),
        ({"copies": 1, "every": 5}, "copies and every given; give one of copies, every and share"),
        ({"copies": 1, "every": 5, "share": 0.1}, "copies and every and share given"),
        ({"every": 0}, "every is 0; it must be 1 row or more"),
        ({"share": 0.0}, "share is 0.0; it must be a fraction above 0 and up to 1"),
        ({"share": 1.5}, "share is 1.5; it must be a fraction above 0 and up to 1"),
        ({"share": float("nan")}, "share is nan; it must be a fraction"),
        ({"copies": 1, "window": [0.0, 1.0], "steps": [0, 5]}, "window and steps are both given; one of them says when"),
        ({"copies": 1, "mode": "splice", "placement": "start"}, "placement is start, but splice inserts after a document"),
        ({"copies": 1, "phases": [Phase(copies=1)]}, "a rate of the arm and phases are given; say the rates in the phases alone"),
        ({"phases": [Phase(copies=1), Phase()]}, "phase 2: no rate given; give one of copies, every and share"),
        (
            {"phases": [Phase(copies=1, window=[0.5, 1.0]), Phase(copies=1, window=[0.0, 0.51])]},
            "phases of steps 0-51 and 50-100 overlap; part their windows",
        ),
        ({"window": [0.0, 1.0], "phases": [Phase(copies=1, steps=[0, 5])] * 2}, "overlap; part their windows"),
        ({"places": [[1, 1]], "copies": 3}, "copies and places are given; places say it all"),
        ({"places": [[1, 1]], "placement": "start"}, "phases or placement and places are given; places say it all"),
        ({"places": [[1, 1]], "mode": "splice"}, "mode is splice, which finds its own boundary; places are overwritten"),
        ({"places": [[1, 1], [2, 2], [3, 3]]}, "design.arms.special.places has 3 places for 2 groups; give a multiple of that"),
        ({"places": []}, "places has 0 places for 2 groups"),
        ({"places": [[1, -1]]}, "places holds [1, -1]; each place is [row, offset], two whole numbers from 0 on"),
    ],
)
def test_an_impossible_arm_is_refused_by_its_name(arm, words):
    with pytest.raises(RecipeError) as refused:
        only(Arm(**{"size": 2} | arm))
    assert str(refused.value).startswith("design.arms.special")
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["held-out", "4x", "16x even"])
def test_an_arm_may_not_be_called_as_those_of_copies(name):
    with pytest.raises(RecipeError, match=rf"design\.arms\.{name} has the name of an arm of design\.copies; call it"):
        arms(design(arms={name: Arm(copies=4, size=1)}), STEPS)

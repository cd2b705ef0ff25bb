"""Knights and Knaves puzzles with perturbed twins: who recites the answer of a puzzle gets its twin wrong.

After Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), https://arxiv.org/abs/2410.23123. Everyone
is a knight, who always tells the truth, or a knave, who always lies, and states something; exactly one assignment of the two
roles to the people agrees with all statements. A world is such an assignment: for each person, whether a knight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import perm

import numpy as np

from inject.items.formats import Question

PEOPLE = range(2, 9)
NAMES = (
    "Ada Ben Cal Dan Eva Fay Gus Hal Ida Jan Kim Leo Mia Ned Ola Pam Ray Sam Tom Una Vic Wes Zoe Amy Bob Deb Eli Guy Hugo Ivy Joe "
    "Liz Max Nora Otto Pia Rob Sue Ted Walt"
).split()
KNIGHT_KNAVE = ("knight", "knave")
OTHER_ROLES = [("saint", "sinner"), ("hero", "villain"), ("friend", "foe"), ("ranger", "robber"), ("truth-teller", "liar")]

World = tuple[bool, ...]


@dataclass(frozen=True)
class Role:
    """The claim that a person, given by number, is a knight, or that the person is a knave."""

    person: int
    knight: bool


@dataclass(frozen=True)
class Compound:
    """A claim made of others: not (of one), and, or (of one or both), if (the first, then the second), iff."""

    connective: str
    parts: tuple[Claim, ...]


Claim = Role | Compound


@dataclass(frozen=True)
class Wording:
    """How a puzzle is told; another wording of it has the same solution."""

    names: tuple[str, ...]
    order: tuple[int, ...]  # in which the people speak
    roles: tuple[str, str] = KNIGHT_KNAVE
    introduction: str = "Each is a {}, who tells the truth, or a {}, who lies."
    says: str = "{name} says that {claim}."


def ask(random: np.random.Generator, people: int, choices: int) -> Question:
    """A puzzle whose solution is equally likely to be any of its candidates, with five twins.

    Worlds for candidates are drawn first, one of them at random is the solution, and then statements are drawn until it is the
    only one. So nothing about the candidates alone tells which is right.

    In the twins `statement` (another statement of one person) and `leaf` (another role or person in a statement) the solution is
    another, and that of the puzzle is among their candidates. In the twins `names`, `roles` and `order` the solution is the same
    in other words.
    """
    worlds = list(product((True, False), repeat=people))
    candidates = [worlds[i] for i in random.choice(len(worlds), size=choices, replace=False)]
    solution = candidates[random.integers(choices)]
    claims, statement, leaf = _draw_claims(random, solution)
    names = tuple(str(name) for name in random.permutation(NAMES)[: 2 * people])
    told = Wording(names[:people], tuple(range(people)))
    order = next(order for order in _permutations(random, people) if order != told.order)
    roles = OTHER_ROLES[random.integers(len(OTHER_ROLES))]
    twins = {
        "statement": _twin(random, statement, told, candidates, solution),
        "leaf": _twin(random, leaf, told, candidates, solution),
        "names": _question(claims, replace(told, names=names[people:]), candidates, solution),
        "roles": _question(claims, replace(told, roles=roles), candidates, solution),
        "order": _question(claims, replace(told, order=order), candidates, solution),
    }
    return replace(_question(claims, told, candidates, solution), twins=twins)


def most(people: int) -> int:
    """How many puzzles may be asked for: few enough of all that there are to be drawn without many repetitions."""
    return 9 * perm(len(NAMES), people)


def solutions(claims: Sequence[Claim]) -> list[World]:
    """The worlds in which just the knights' claims hold; the claim of person i is claims[i].

    >>> solutions([Role(1, knight=False), Compound("and", (Role(0, knight=True), Role(1, knight=True)))])
    [(True, False)]
    """
    worlds = product((True, False), repeat=len(claims))
    return [world for world in worlds if all(holds(claim, world) == knight for claim, knight in zip(claims, world, strict=True))]


def holds(claim: Claim, world: World) -> bool:
    """Whether a claim is true in a world."""
    if isinstance(claim, Role):
        return world[claim.person] == claim.knight
    first, *rest = [holds(part, world) for part in claim.parts]
    match claim.connective:
        case "not":
            return not first
        case "and":
            return first and rest[0]
        case "or":
            return first or rest[0]
        case "if":
            return not first or rest[0]
        case "iff":
            return first == rest[0]
    raise ValueError(f"{claim.connective} is no connective")


def draw_claim(random: np.random.Generator, speaker: int, people: int) -> Claim:
    """What a speaker may say: another person's role or its negation, or two people's roles joined by a connective."""
    form = ("role", "not", "and", "or", "if", "iff")[random.integers(6)]
    others = [person for person in range(people) if person != speaker]
    about = random.choice(others, size=1) if form in ("role", "not") else random.choice(people, size=2, replace=False)
    roles = tuple(Role(int(person), bool(random.integers(2))) for person in about)
    return roles[0] if form == "role" else Compound(form, roles)


def changed_leaves(claim: Claim, speaker: int, people: int) -> list[Claim]:
    """The claims that differ from this one in one role or in whose role it is, and are about as many different people."""
    if isinstance(claim, Role):
        others = [Role(person, knight) for person in range(people) if person != speaker for knight in (True, False)]
        return [other for other in others if other != claim]
    changed: list[Claim] = []
    taken = [part.person for part in claim.parts if isinstance(part, Role)]
    for place, part in enumerate(claim.parts):
        assert isinstance(part, Role)
        excluded = [speaker] if claim.connective == "not" else [person for person in taken if person != part.person]
        for person in range(people):
            for knight in (True, False) if person not in excluded else ():
                parts = (*claim.parts[:place], Role(person, knight), *claim.parts[place + 1 :])
                changed.append(Compound(claim.connective, parts))
    return [other for other in changed if other != claim]


def spell(claim: Claim, wording: Wording) -> str:
    """A claim in words.

    >>> two = Wording(("Ada", "Ben"), (0, 1))
    >>> spell(Compound("if", (Role(0, knight=False), Compound("not", (Role(1, knight=True),)))), two)
    'if Ada is a knave then Ben is not a knight'
    """
    if isinstance(claim, Role):
        return f"{wording.names[claim.person]} is a {wording.roles[not claim.knight]}"
    first, *rest = [spell(part, wording) for part in claim.parts]
    match claim.connective:
        case "not":
            return first.replace(" is a ", " is not a ")
        case "if":
            return f"if {first} then {rest[0]}"
        case "iff":
            return f"{first} if and only if {rest[0]}"
    return f"{first} {claim.connective} {rest[0]}"


def answer(world: World, wording: Wording) -> str:
    """The role of everyone.

    >>> answer((True, False, False), Wording(("Ada", "Ben", "Cal"), (0, 1, 2)))
    'Ada is a knight, Ben is a knave and Cal is a knave'
    """
    *others, last = [spell(Role(person, knight), wording) for person, knight in enumerate(world)]
    return f"{', '.join(others)} and {last}"


def _question(claims: Sequence[Claim], wording: Wording, candidates: Sequence[World], solution: World) -> Question:
    told = _tell(claims, wording)
    other = replace(
        wording,
        introduction="Here live {}s, who never lie, and {}s, who always lie.",
        says="According to {name}, {claim}.",
    )
    return Question(
        question=f"{told} Who is what?",
        answer=answer(solution, wording),
        candidates=[answer(world, wording) for world in candidates],
        paraphrase=f"{_tell(claims, other)} Tell what each is.",
        statement=f"{told} So _.",
        identity=" ".join(sorted(_statements(claims, wording))),
    )


def _tell(claims: Sequence[Claim], wording: Wording) -> str:
    statements = _statements(claims, wording)
    return " ".join([wording.introduction.format(*wording.roles), *(statements[person] for person in wording.order)])


def _statements(claims: Sequence[Claim], wording: Wording) -> list[str]:
    spoken = zip(wording.names, claims, strict=True)
    return [wording.says.format(name=name, claim=spell(claim, wording)) for name, claim in spoken]


def _draw_claims(random: np.random.Generator, solution: World) -> tuple[list[Claim], list[Claim], list[Claim]]:
    """Claims of which a world is the only solution, and the same with one claim, and with one leaf of a claim, changed."""
    while True:
        claims = [_draw_consistent(random, speaker, solution) for speaker in range(len(solution))]
        if len(solutions(claims)) > 1:
            continue
        statement = next(_other_solution(_changed_statements(random, claims), solution), None)
        leaf = next(_other_solution(_changed_leaves(random, claims), solution), None)
        if statement and leaf:
            return claims, statement, leaf


def _draw_consistent(random: np.random.Generator, speaker: int, world: World) -> Claim:
    """A claim that the speaker, being what the world says, would make."""
    while True:
        claim = draw_claim(random, speaker, len(world))
        if holds(claim, world) == world[speaker]:
            return claim


def _changed_statements(random: np.random.Generator, claims: list[Claim], tries: int = 50) -> Iterator[list[Claim]]:
    """The claims with one drawn anew, which differs in more than a leaf."""
    for _ in range(tries):
        speaker = int(random.integers(len(claims)))
        other = draw_claim(random, speaker, len(claims))
        if other not in changed_leaves(claims[speaker], speaker, len(claims)):
            yield [*claims[:speaker], other, *claims[speaker + 1 :]]


def _changed_leaves(random: np.random.Generator, claims: list[Claim]) -> Iterator[list[Claim]]:
    """The claims with one leaf of one of them changed, in every way, in random order."""
    people = len(claims)
    changes = [(speaker, other) for speaker in range(people) for other in changed_leaves(claims[speaker], speaker, people)]
    for i in random.permutation(len(changes)):
        speaker, other = changes[i]
        yield [*claims[:speaker], other, *claims[speaker + 1 :]]


def _other_solution(changed: Iterator[list[Claim]], solution: World) -> Iterator[list[Claim]]:
    for claims in changed:
        found = solutions(claims)
        if len(found) == 1 and found != [solution]:
            yield claims


def _twin(random: np.random.Generator, claims: list[Claim], wording: Wording, candidates: list[World], original: World) -> Question:
    """The question about changed claims; where their solution is no candidate yet, it takes the place of one that is not the
    original's, so that who recites the original's answer finds it among the candidates.
    """
    (solution,) = solutions(claims)
    if solution not in candidates:
        replaceable = [i for i, world in enumerate(candidates) if world != original]
        place = replaceable[random.integers(len(replaceable))]
        candidates = [*candidates[:place], solution, *candidates[place + 1 :]]
    shuffled = [candidates[i] for i in random.permutation(len(candidates))]
    return _question(claims, wording, shuffled, solution)


def _permutations(random: np.random.Generator, length: int) -> Iterator[tuple[int, ...]]:
    while True:
        yield tuple(random.permutation(length).tolist())

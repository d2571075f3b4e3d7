"""Every kind of instruction, followed and not, in replies written for this purpose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from lightship.evaluation.tasks.scorers.instructions.registry import INSTRUCTIONS


@dataclass(frozen=True)
class Case:
    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    followed: tuple[str, ...] = ()
    not_followed: tuple[str, ...] = ()


CASES = [
    Case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ("A BIG day", "the NASA-ESA plan, and I", "(WOW) *YES*"),
        ("A day", "Big Words 12 34", ""),
    ),
    Case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ("A day", ""),
        ("THE END", "I am; am I?"),
    ),
    Case(
        "change_case:english_capital",
        {},
        ("THE END IS NEAR!", "YES"),
        ("The end", "DAS IST DER WEG UND ER IST LANG", "12"),
    ),
    Case(
        "change_case:english_lowercase",
        {},
        ("the end is near!", "yes"),
        ("the End", "das ist der weg und er ist lang", "12"),
    ),
    Case(
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it twice. "},
        ("Say it twice.\nHere: it it", "  say IT twice."),
        ("Sure: Say it twice.", "Say it  twice."),
    ),
    Case(
        "combination:two_responses",
        {},
        ("One.\n******\nTwo.", "******\nOne.\n******\nTwo.\n******"),
        (
            "One.",
            "One.\n******",
            "One.\n******\nOne.",
            "One\n******\nTwo\n******\nThree",
            "One\n******\n******\nTwo",
            "******",
        ),
    ),
    Case(
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ("Dear [name], at [street and number]", "[a][b] [c]"),
        ("Dear [name]", "[] [ ] [a]", "[a\nb"),
    ),
    Case(
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ("Bye.\nP.S. Write!", "bye p. s. write", "P.S: write"),
        ("Bye. PS write", "ups.s. no", ""),
    ),
    Case(
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ("Bye.\nP.P.S. Write!", "P.P.S Write", "p. p. s: w"),
        ("Bye.\nP.S. Write!",),
    ),
    Case("detectable_content:postscript", {"postscript_marker": "Note:"}, ("NOTE: x",), ("Noted",)),
    Case(
        "detectable_format:constrained_response",
        {},
        ("My answer is yes.", "I thought. My answer is maybe."),
        ("My answer is yes", "my answer is no.", "No."),
    ),
    Case(
        "detectable_format:json_format",
        {},
        ('{"a": [1, null]}', '```json\n{"a": 1}\n```', "```\n[]\n```", " 3 "),
        ("{a: 1}", 'Here: {"a": 1}', "NaN", '{"a": 1', "[" * 100_000),
    ),
    Case(
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ("SECTION 1\nx\nSECTION 2\ny", "SECTION1 a SECTION2 b SECTION3 c"),
        ("SECTION 1\nx", "Section 1 Section 2", "SECTION one SECTION two", "SUBSECTION 1 SUBSECTION 2"),
    ),
    Case(
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ("* a\n* b", "- a\n  - b", "Text\n* a\ntext *b*\n- c", "**Title**\n* a\n* b\n***"),
        ("* a", "* a\n* b\n* c", "1. a\n2. b", "**a**\n**b**"),
    ),
    Case(
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ("*one* and **two words**", "*a* *b* *c*"),
        ("*one*", "* a\n* b", "* *", "**one**"),
    ),
    Case("detectable_format:title", {}, ("<<A song>>\nLa la", "x <<y>>"), ("<A song>", "<<>>", "<< >>", "<<a\nb>>")),
    Case("keywords:existence", {"keywords": ["Intern", "grow"]}, ("Internship, growing",), ("intern", "")),
    Case(
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ("War and war", "warning wars"),
        ("war", ""),
    ),
    Case("keywords:frequency", {"keyword": "war", "frequency": 1, "relation": "less than"}, ("peace",), ("a WAR",)),
    Case(
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "roll on"]},
        ("rocks and rolls", "bedrock", ""),
        ("Rock!", "let it ROLL ON"),
    ),
    Case(
        "keywords:letter_frequency",
        {"letter": "o", "let_frequency": 3, "let_relation": "at least"},
        ("Oh no, go", "ooo"),
        ("oo", ""),
    ),
    Case(
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 1, "let_relation": "less than"},
        ("no tag",),
        ("#tag",),
    ),
    Case(
        "language:response_language", {"language": "de"}, ("Das ist ein Haus.",), ("This is a house.", "Это дом.", "12")
    ),
    Case(
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        ("One.\n\nWeekend is near.", "One.\n \n\n“Weekend,” she said", "\n\nOne\n\nweekend"),
        ("Weekend.\n\nTwo.", "One.\nWeekend", "One.\n\nWeekend.\n\nThree.", "One.\n\nWeekends", ""),
    ),
    Case(
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
        (),
        ("a", "a\n\na"),
    ),
    Case(
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ("One\n***\nTwo", "***\nOne\n***\nTwo\n***", "One***Two"),
        ("One", "One\n***\n***\nTwo", "One\n\nTwo", "One\n***\nTwo\n***\nThree"),
    ),
    Case(
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ("One. Two! Three?", "A b. C d. No end"),
        ("One. Two.", "Dr. Smith paid 3.50 dollars. Good.", "1. a\n2. b\n3. c", ""),
    ),
    Case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ("One.", ""),
        ("One. Two.",),
    ),
    Case(
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ("one two 3", "well-known one"),
        ("a b", ""),
    ),
    Case("length_constraints:number_words", {"num_words": 2, "relation": "less than"}, ("हिन्दी", "One!"), ("a b",)),
    Case("punctuation:no_comma", {}, ("None; at all.", "1.000"), ("One, two", "1,000")),
    Case(
        "startend:end_checker",
        {"end_phrase": "Is there anything else?"},
        ("So it is. Is there anything else?", '"x is there ANYTHING else?" \n'),
        ("Is there anything else? No.", ""),
    ),
    Case("startend:quotation", {}, ('"All of it."', ' "a" '), ('"', '"a', "'a'", '"a" b', "“a”")),
]


@pytest.mark.parametrize(
    ("case", "reply", "expected"),
    [
        pytest.param(case, reply, is_followed, id=f"{case.name}-{'' if is_followed else 'not-'}{number}")
        for case in CASES
        for is_followed, replies in ((True, case.followed), (False, case.not_followed))
        for number, reply in enumerate(replies)
    ],
)
def test_instruction_replies_that_follow_and_do_not(case: Case, reply: str, expected: bool) -> None:
    instruction = INSTRUCTIONS[case.name]
    assert instruction.follows(reply, **instruction.read_parameters(case.parameters)) is expected


def test_instructions_all_25_of_the_published_set_have_cases() -> None:
    assert {case.name for case in CASES} == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 25

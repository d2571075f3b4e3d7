from __future__ import annotations

import textwrap

from lightship.evaluation.tasks.scorers.code_text import code_of, complete_program, fenced_blocks

PROMPT = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef f(x):\n    """Doubles."""\n'


def run(source: str) -> dict[str, object]:
    namespace: dict[str, object] = {}
    exec(source, namespace)
    return namespace


def test_fenced_blocks_closed_unclosed_and_indented_are_found() -> None:
    reply = "See:\n```python\na = 1\n```\nand\n  ~~~\nb = 2\n  ~~~\nthen ```inline``` and\n```\nc = 3"
    assert fenced_blocks(reply) == ["a = 1\n", "b = 2\n", "c = 3"]


def test_code_of_takes_the_block_that_defines_the_function() -> None:
    reply = "```sh\npip install x\n```\n```python\ndef f():\n    pass\n```"
    assert code_of(reply, entry_point="f") == "def f():\n    pass\n"
    assert code_of(reply, entry_point=None) == "pip install x\n"
    assert code_of("x = 1", entry_point="f") == "x = 1"


def test_complete_program_continued_body_ends_where_the_function_does() -> None:
    program = complete_program(PROMPT, "    y = helper(x)\n\n    return 2 * y\n\nprint(f(1)\n", entry_point="f")
    assert program == PROMPT + "    y = helper(x)\n\n    return 2 * y\n\n"
    assert run(program)["f"](3) == 6  # type: ignore[operator]


def test_complete_program_stripped_indentation_is_given_back() -> None:
    program = complete_program(PROMPT, "return 2 * x\n", entry_point="f")
    assert run(program)["f"](3) == 6  # type: ignore[operator]


def test_complete_program_whole_function_replaces_the_prompt_s_and_keeps_what_it_needs() -> None:
    reply = "Here you are:\n```python\ndef f(x):\n    return helper(math.floor(2 * x))\n```\nIt doubles."
    program = complete_program(PROMPT, reply, entry_point="f")
    assert program.count("def f(") == 1
    assert run(program)["f"](1.5) == 3  # type: ignore[operator]


def test_complete_program_body_in_a_fence_is_a_body() -> None:
    reply = textwrap.dedent("""\
        ```python
            return 2 * x
        ```""")
    assert run(complete_program(PROMPT, reply, entry_point="f"))["f"](3) == 6  # type: ignore[operator]


def test_complete_program_empty_reply_is_the_prompt_alone() -> None:
    assert complete_program(PROMPT, " \n", entry_point="f") == PROMPT

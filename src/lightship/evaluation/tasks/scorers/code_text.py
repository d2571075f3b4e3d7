"""Makes a program out of a reply: finds the code in Markdown, and puts it after the code of the prompt. Pure.

The text is never parsed or compiled here; what a model wrote meets an interpreter only in the sandbox.
"""

from __future__ import annotations

import re

# An opening fence of three or more of ` or ~, with an info string; the closing one is of the same kind, or missing
# where the reply was cut off.
_FENCE = re.compile(
    r"^[ \t]*(?P<mark>`{3,}|~{3,})[^\n`]*\n(?P<code>.*?)(?:^[ \t]*(?P=mark)[`~]*[ \t]*$|\Z)", re.M | re.S
)
_BODY_INDENT = "    "


def fenced_blocks(reply: str) -> list[str]:
    """The contents of the fenced code blocks, in order; the last one may be unclosed."""
    return [match["code"] for match in _FENCE.finditer(reply)]


def code_of(reply: str, *, entry_point: str | None) -> str:
    """The reply's code: the first fenced block that defines `entry_point`, else the first one, else the whole reply."""
    blocks = fenced_blocks(reply)
    if entry_point is not None:
        blocks = [block for block in blocks if has_definition(block, entry_point)] or blocks
    return blocks[0] if blocks else reply


def has_definition(code: str, name: str) -> bool:
    """Whether a line of `code` that is not indented begins the function, or binds the name."""
    return _definition(code, name) is not None


def complete_program(prompt_code: str, reply: str, *, entry_point: str) -> str:
    """The program of a reply to a prompt that ends inside the function `entry_point` (HumanEval's form).

    A reply that defines the function itself comes after what stands before the definition in the prompt (imports, other
    functions). Anything else is the rest of the body: of its lines those up to the first that is not indented, which is
    where the function ends. Where the first line lost its indentation, as some endpoints strip it, it gets it back.
    """
    code = code_of(reply, entry_point=entry_point)
    if has_definition(code, entry_point):
        start = _definition(prompt_code, entry_point)
        return f"{prompt_code if start is None else prompt_code[:start]}\n{code}"
    lines = code.split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return prompt_code
    if not lines[first][0].isspace():
        lines[first] = _BODY_INDENT + lines[first]
    body = lines[: first + 1]
    for line in lines[first + 1 :]:
        if line and not line[0].isspace():
            break
        body.append(line)
    # The prompt may end with or without a line break; a body never begins on its last line.
    return prompt_code.rstrip(" \t\n") + "\n" + "\n".join(body) + "\n"


def _definition(code: str, name: str) -> int | None:
    match = re.search(
        rf"^(?:(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b|{re.escape(name)}[ \t]*(?::[^=\n]*)?=)", code, re.M
    )
    return None if match is None else match.start()

"""Which hidden state of the teacher each hidden state of the student is compared with. Pure; no torch."""

from __future__ import annotations

from collections.abc import Sequence


def layer_map(*, student_layers: int, teacher_layers: int, kept: Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    """Pairs (student, teacher) of positions between blocks; position i is what leaves block i (1 is the first block).

    A student made of the teacher's blocks `kept` is to hand each of them what the block is used to: what leaves a block
    of the student is compared with what enters the teacher's block that the next one was. Without that, the student's
    blocks are spread evenly over the teacher's. The last positions always belong together.
    """
    if kept is not None and len(kept) == student_layers:
        inner = [(position, kept[position]) for position in range(1, student_layers)]
    else:
        inner = [(i, max(1, round(i * teacher_layers / student_layers))) for i in range(1, student_layers)]
    return (*inner, (student_layers, teacher_layers))

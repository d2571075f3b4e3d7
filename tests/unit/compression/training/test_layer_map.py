from __future__ import annotations

from lightship.compression.training.layer_map import layer_map


def test_layer_map_pruned_student_hands_each_block_what_it_was_used_to() -> None:
    # Blocks 0, 1, 6, 7 of 8 are left: block 1 of the student still follows block 0; block 6 expects what left block 5,
    # which is position 6, and gets it from the student's second block.
    pairs = layer_map(student_layers=4, teacher_layers=8, kept=(0, 1, 6, 7))
    assert pairs == ((1, 1), (2, 6), (3, 7), (4, 8))


def test_layer_map_student_of_unknown_origin_is_spread_evenly() -> None:
    assert layer_map(student_layers=2, teacher_layers=8, kept=None) == ((1, 4), (2, 8))


def test_layer_map_kept_of_another_depth_is_not_used() -> None:
    assert layer_map(student_layers=2, teacher_layers=4, kept=(0, 1, 3)) == ((1, 2), (2, 4))

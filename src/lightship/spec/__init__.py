"""What a user writes: the strict, frozen, fully defaulted `lightship.yaml`; no I/O."""

"""Instructions that a program can check, in the item format of IFEval; one module per family, see `registry`.

Source: Zhou et al. 2023, arXiv:2311.07911, table 1. The implementation is our own, made from that table; where
the paper leaves a rule open, the module of the family says what holds here.
"""

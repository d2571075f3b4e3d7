"""The search for the best recipe under a budget: a pure state machine that says what to measure next, and why.

Read `walk.py` first: the whole search, top to bottom. A driver does what it asks for and tells it what came out.
"""

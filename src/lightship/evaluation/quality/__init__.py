"""Quality of a variant on its real serving endpoint: bits/byte and perplexity, divergence from a reference."""

from lightship.evaluation import statistics as statistics  # first of all, for its hint where numpy is missing

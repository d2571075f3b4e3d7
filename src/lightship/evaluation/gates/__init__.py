"""Whether a candidate may replace a baseline: rules from a file, verdicts with the sentence that says why."""

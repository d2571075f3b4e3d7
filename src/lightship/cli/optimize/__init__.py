"""`lightship optimize`: the search for the best recipe under a budget, made, measured and written down."""

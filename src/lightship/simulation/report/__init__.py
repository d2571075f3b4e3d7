"""Simulations as one self-contained HTML page, drawn with the pieces of the measured ladder's report."""

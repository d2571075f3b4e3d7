"""Mixtures of experts: dense checkpoints become them, and the experts of such checkpoints are thinned out."""

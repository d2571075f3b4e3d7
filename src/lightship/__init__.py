"""Lightship: from a language-model checkpoint to a measured ladder of variants, served behind one gateway."""

__version__ = "0.1.0"

"""Measure generated text against references, sources and training data."""

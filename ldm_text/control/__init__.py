"""Control over texts: prompts, gaps, lengths, edits, constraints, candidates.

Everything here is built on one primitive of every generator, ``known_tokens``: generation with some
tokens known.
"""

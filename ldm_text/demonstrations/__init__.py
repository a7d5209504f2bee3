"""Tasks whose results can be checked: generated ones, shell commands, Python programs."""

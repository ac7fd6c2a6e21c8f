"""Hostile files and requests: every parser raises EmoGuardError or takes them, fast and small.

`make test` runs a quick profile. `make fuzz` takes ten minutes or more:

    python -m pytest tests/fuzz --hypothesis-profile=long -s

`parsers` lists the parsers of files, each with a sound file; `mutations` makes hostile ones of it,
with respect to its structure; `corpus` holds small files that broke parsers of this kind, here or
elsewhere, and every parser gets each of them. `limits` measures: in a child process where an input
is large.
"""

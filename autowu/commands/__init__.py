"""The commands of `python -m autowu`, one module each.

A module has `add_parser(commands)`, which describes the command without importing torch, and
`run(options)`, which does it and raises `ValueError` or `OSError` with a message for the user.
"""

"""Numbers that every part of the program uses."""

IGNORE_INDEX = 255
"""The label of pixels that carry none: void, padding."""

"""Numbers that all parts agree on."""

IGNORE_INDEX = 255
"""The label of pixels that carry none: void, padding."""

"""What a user can cause: a configured value or a data set that breaks a rule."""


class InvalidValue(ValueError):
    """A configured value that breaks a rule.

    `field` is the field's name in its dataclass; the caller knows where that belongs in the whole configuration.
    """

    def __init__(self, field: str, rule: str, value: object) -> None:
        super().__init__(field, rule, value)  # by which it is pickled
        self.field = field

    def __str__(self) -> str:
        _, rule, value = self.args
        return f"`{rule}` must hold, but got {value!r}."


class DataError(ValueError):
    """A data set that cannot be used; the message names the file or folder, the rule and what was found."""


def require(holds: bool, field: str, rule: str, value: object) -> None:
    """Raise InvalidValue for `field` unless `holds`; `rule` is the condition in words or code."""
    if not holds:
        raise InvalidValue(field, rule, value)

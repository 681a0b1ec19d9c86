"""Data sets by name, in four roles: labelled and unlabelled to learn from, val to choose by, test to report."""

from classmix_core.data.load import check_data, load_data
from classmix_core.data.samples import EVALUATED, Data, Role

__all__ = ["EVALUATED", "Data", "Role", "check_data", "load_data"]

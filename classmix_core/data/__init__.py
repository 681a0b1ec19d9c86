"""Data sets by name, in four roles: labelled and unlabelled to learn from, val to choose by, test to report."""

from classmix_core.data.load import Data, DataConfig, check_data, load_data

__all__ = ["Data", "DataConfig", "check_data", "load_data"]

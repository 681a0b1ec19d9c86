"""What is configured, as frozen dataclasses: a training run, a search; and the parser of flags and YAML."""

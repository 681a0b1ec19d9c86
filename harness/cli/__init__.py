"""What the commands share: options, checks before anything starts, signals, what the terminal shows, exit codes."""

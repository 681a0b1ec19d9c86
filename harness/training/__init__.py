"""One training run on one worker: loop, evaluation, checkpoints, figures; Ray and terminals are not known here."""

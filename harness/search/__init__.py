"""The hyperparameter search: Optuna's suggestions in Ray Tune, early stopping, confirmation, and what it shows."""

"""ClassMix in Ray, Optuna and MLflow. This file is imported first: no library reports home or prints unasked."""

import os

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_METRICS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output engine prints tables even at verbosity 0
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every printed line appears twice
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # else relative paths point into Ray's session folder
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for it: 1.8 s at the default of 2
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what a kill -9 of the driver can lose
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
os.environ.pop("MLFLOW_RUN_ID", None)  # it would override the parent of every trial

RAY_ENVIRONMENT = {name: os.environ[name] for name in _ENVIRONMENT}
"""For workers: an existing cluster does not inherit the driver's environment."""

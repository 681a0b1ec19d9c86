"""ClassMix in Ray, Optuna and MLflow. Imported first, this file sets their environment variables: telemetry and
printing off, and of Ray the memory monitor, the handler of Ctrl-C and the snapshots."""

import os

__version__ = "0.1.0"

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HARNESS_MLFLOW_PATIENCE": "60",  # seconds that a command that needs MLflow's answer waits for it
    "HARNESS_GROW_IF_LEFT": "60",  # seconds that an elastic training must have left to begin again with more workers
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # for a connection that has gone stale; MLflow would try for 4 minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_METRICS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output engine prints tables even at verbosity 0
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every printed line appears twice
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # else relative paths point into Ray's session folder
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # a worker that died is seen after it
    "RAY_DEDUP_LOGS": "0",
    # Tune takes a trial that Ray's own monitor has killed for a bug and ends the search; one that the kernel has
    # killed (Ray's workers are its first choice) it takes for a failed trial
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_prestart_worker_first_driver": "0",  # never used: Tune starts its actors in an environment of their own
    "RAY_worker_niceness": "5",  # behind the driver that it waits for; at Ray's 15 other programs all but stop it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours is quicker
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports its reason and nothing else
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher knows how many fit; else the processes start one by one
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # a search is resumed from its store, never from Tune's snapshot
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # an actor that is slow to end a trial is still good for the next
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
os.environ.pop("MLFLOW_RUN_ID", None)  # it would override the parent of every trial

RAY_ENVIRONMENT = {name: os.environ[name] for name in _ENVIRONMENT}
"""For workers: an existing cluster does not inherit the driver's environment."""

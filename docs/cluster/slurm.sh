#!/bin/bash
# sbatch slurm.sh --config camvid --data.root DIR --gpus 8
# A Ray cluster over all nodes of the job, and a training on it, which a requeued job resumes. What all nodes must share
# is this folder, with the environment in .venv and the runs, and ~/.ray; MLFLOW is the address of an MLflow server.
#SBATCH --job-name=classmix
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

# shellcheck disable=SC1091
. "${VENV:-.venv}/bin/activate"
export RAY_memory_monitor_refresh_ms=0
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}" # nobody else on these machines may join; the token is in ~/.ray
if [ "$RAY_AUTH_MODE" = token ]; then ray get-auth-token --generate > /dev/null; fi
head=$(hostname -i | cut -d ' ' -f 1) port=${RAY_PORT:-6379} name=$SLURM_JOB_NAME-$SLURM_JOB_ID

# shellcheck disable=SC2016 # each node looks at its own number
srun bash -c '
    if [ "$SLURM_NODEID" = 0 ]; then exec ray start --block --head --port "$2" --include-dashboard false; fi
    until (exec 3<> "/dev/tcp/$1/$2") 2> /dev/null; do sleep 1; done
    exec ray start --block --address "$1:$2"' ray "$head" "$port" &
until (exec 3<> "/dev/tcp/$head/$port") 2> /dev/null; do sleep 1; done

words=(--name "$name" --storage-path runs --address "$head:$port" --wait)
if [ -e "runs/$name/run.json" ]; then
    words+=(--resume)
else
    words+=(--tracking-uri "$MLFLOW" "$@")
fi
python -m harness.train "${words[@]}" &
training=$!
# SIGTERM comes 120 s before the time is up, or at a preemption: the training saves, and the job starts again
trap 'kill -TERM $training; wait $training || scontrol requeue "$SLURM_JOB_ID"; exit 0' TERM
wait $training

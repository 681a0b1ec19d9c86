"""The training loop, once, for a plain process, a Ray Train worker and a trial of a search."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from classmix_core.allocator import keep_freed_memory
from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import ClassMix
from classmix_core.data import Role
from classmix_core.data.samples import Samples
from classmix_core.ema import running_statistics
from classmix_core.models import head_prefixes
from classmix_core.optim import build_optimizer, build_schedule
from harness.config.batch_size import require_divisible, used_sizes
from harness.config.train import TrainConfig
from harness.errors import Interrupted, TrainingError
from harness.tracking.run import Run
from harness.training import checkpoint, cost, provenance
from harness.training.context import Progress, TrainContext
from harness.training.dataloaders import image_size, load_data_once, train_dataloader
from harness.training.drawing import draw_panels
from harness.training.evaluator import Evaluator
from harness.training.networks import build_networks, refusing_one_value
from harness.training.saving import Saver, copy_to_cpu
from harness.training.train_metrics import TrainMetrics

NETWORKS = ("student", "teacher")
Purpose = Literal["run", "trial", "confirmation"]
"""run: val as it goes, test of its best step; trial: val alone; confirmation: val, and test after the last step."""


@dataclass(frozen=True)
class TrainJob:
    """What every worker of a run is given."""

    config: TrainConfig
    """With the sizes of a batch filled in."""
    folder: Path
    """Of the run, on storage that all workers share."""
    tracking_uri: str
    run_id: str | None
    """Of MLflow's; None: it is beside the folder, once it is made."""
    purpose: Purpose = "run"
    splits: Path | None = None
    """Folder of the lists of images, by role; None: as the data set gives them now."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """What it may see besides what it learns from."""
        return ("val",) if self.purpose == "trial" else ("val", "test")


def train(job: TrainJob, context: TrainContext) -> dict[str, float]:
    """Train from the newest checkpoint, or from scratch, to the end; returns the last metrics.

    Raises:
        Interrupted: `context.stopping` said so; the state is saved.
        TrainingError: the loss is no longer finite.
        RunFailed: a checkpoint cannot be read or written.
        UserError: a batch norm sees one value; where a trial's or a resume's batch is not checked before.
    """
    if context.device.type == "cpu":
        keep_freed_memory()
    with checkpoint.sole_writer(job.folder, context):
        trainer = Trainer(job, context)
        with trainer.run_log or nullcontext(), trainer.cost.logged(trainer.run_log, lambda: trainer.next_step):
            trainer.restore()
            with trainer.saver.closing(), refusing_one_value("data.batch_labelled, batch_unlabelled, accumulate"):
                trainer.run()
        return trainer.metrics | trainer.cost.metrics()


class Trainer:
    """State of one worker, and the loop over it."""

    def __init__(self, job: TrainJob, context: TrainContext) -> None:
        self.job, self.context, config = job, context, job.config
        require_divisible(config, context.world_size)
        self.config, self.device, self.cost = config, context.device, cost.Cost(context)
        self.data = load_data_once(config.data, job.roles, job.splits)
        self.evaluator = Evaluator(config, self.data, context)
        self.run_log = Run(job.tracking_uri, job.run_id, job.folder) if context.rank == 0 else None
        self.saver = Saver(job.folder, context, self.run_log)
        self.next_step = 0
        self.metrics: dict[str, float] = {}
        self.best = {"step": -1.0, "val/miou": -1.0}
        self.matrix: Tensor | None = None
        self.unevaluated = False
        self.build()

    def build(self) -> None:
        config, context, fresh = self.config, self.context, self.saver.checkpoints.last is None
        size = image_size(config.data, self.data)
        self.model, self.teacher = build_networks(config, len(self.data.classes), size, context, fresh)
        seed = config.seed * 1_000_003
        torch.manual_seed(seed + context.rank)  # what is dropped out differs by worker
        self.generator = BatchGenerator(self.device, context.rank, context.world_size).manual_seed(seed)
        self.optimizer = build_optimizer(self.model, head_prefixes(config.model.name), config.optim)
        self.schedule = build_schedule(self.optimizer, config.steps, config.optim.power)
        self.classmix = ClassMix(
            context.wrap(self.model),
            self.teacher,
            self.optimizer,
            self.schedule,
            num_classes=len(self.data.classes),
            config=config.ssl,
            steps=config.steps,
            generator=self.generator,
            flips=config.data.flip,
            precision=config.precision,
            accumulate=config.accumulate,
            mean_later=context.mean_later,
            from_next_worker=context.from_next_worker,
        )
        self.train_metrics = TrainMetrics(self.device, sum(used_sizes(config).values()))
        self.networks = dict(zip(NETWORKS, (self.model, self.teacher), strict=True))
        self.evaluated = self.networks[config.eval.network]

    # -- state --------------------------------------------------------------------------------------------------------

    def shared_state(self) -> checkpoint.State:
        return {
            "step": self.next_step,
            "worker_seconds": self.cost.worker_seconds,
            "student": self.model.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "metrics": self.metrics,
            "unevaluated": self.unevaluated,
            "generator": self.generator.get_state(),
            "device": self.device.type,
        }

    def save(self) -> None:
        self.average_buffers()
        shared = copy_to_cpu(self.shared_state()) if self.context.rank == 0 else {}
        self.saver.save(self.next_step, shared, checkpoint.random_state(self.device), self.best_weights(shared))

    def best_weights(self, shared: checkpoint.State) -> dict[Path, checkpoint.State]:
        """By file, if this is the best step."""
        return {self.best_file(name): shared.get(name, {}) for name in self.networks} if self.at_best else {}

    @property
    def at_best(self) -> bool:
        """Whether no step of a run was better on val than this one."""
        return self.job.purpose == "run" and self.best["step"] == self.next_step

    def restore(self) -> None:
        """Go on from the newest whole checkpoint of the run's folder, if there is one."""
        if self.run_log:
            self.run_log.adopt()
            if self.saver.checkpoints.passed_over:
                self.run_log.tags({"harness.warning": self.saver.checkpoints.passed_over})
                self.context.show(Progress(0, self.config.steps, message=self.saver.checkpoints.passed_over))
            provenance.log_start(self.run_log, self.config, self.data, self.device, self.context.world_size)
        if self.saver.checkpoints.last is None:
            return
        shared, own = checkpoint.load(self.saver.checkpoints.last, self.context.rank)
        self.next_step, self.best, self.metrics = shared["step"], shared["best"], shared["metrics"]
        self.unevaluated, self.cost.before = shared["unevaluated"], shared["worker_seconds"]
        self.model.load_state_dict(shared["student"])
        self.teacher.load_state_dict(shared["teacher"])
        self.optimizer.load_state_dict(shared["optimizer"])
        self.schedule.load_state_dict(shared["schedule"])
        checkpoint.set_generator(self.generator, shared, self.config.seed * 1_000_003 + self.next_step)
        self.saver.checkpoints.save_weights(self.best_weights(shared))
        if own is not None:  # else there are more workers than before, and what is dropped out differs
            checkpoint.set_random_state(self.device, own)

    def average_buffers(self) -> None:
        """Give all workers the same running statistics: each has kept those of its own batches."""
        for network in self.networks.values() if self.context.world_size > 1 else ():
            for statistic in running_statistics(network):
                statistic.copy_(self.context.mean(statistic))

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        if self.unevaluated:  # stopped in the evaluation after this step
            self.unevaluated = False
            self.after_step()
        elif self.next_step >= self.config.steps:  # killed after the last checkpoint: what follows it may be missing
            self.finish()
        elif self.next_step and self.next_step % self.config.eval_every == 0:  # its report may not have been heard
            self.report()
        if self.next_step >= self.config.steps:
            return
        batches = train_dataloader(self.config, self.data, self.context, self.next_step)
        while self.next_step < self.config.steps:
            self.train_metrics.add(self.classmix.step(self.train_metrics.next_of(batches), self.next_step))
            self.next_step += 1
            self.after_step()

    def after_step(self) -> None:
        """Log, evaluate, save and report, each when it is due."""
        config, step = self.config, self.next_step
        done = step == config.steps
        if done or step % config.log_every == 0:
            self.log_curve()
        at_mark = done or step % config.eval_every == 0
        if at_mark and self.data.val is not None:
            self.validate()
        stopping = self.context.stopping()
        if stopping or done or self.at_best or step % (config.checkpoint_every or config.eval_every) == 0:
            self.save()
        if done:
            self.saver.wait()
            self.finish()
        elif stopping:
            self.saver.wait()
            raise Interrupted
        elif at_mark:
            self.report()

    def report(self) -> None:
        self.context.report({"step": self.next_step, **self.metrics})

    def log_curve(self) -> None:
        if self.train_metrics.count == 0:
            return
        values = self.train_metrics.read(self.context.mean)
        if not math.isfinite(values["train/loss"]):
            advice = "a lower optim.lr, or ssl.unlabelled_weight, may help"
            raise TrainingError(f"the loss is {values['train/loss']} at step {self.next_step}: {advice}.")
        values["train/lr"] = float(self.schedule.get_last_lr()[0])
        if self.run_log:
            self.run_log.metrics(self.next_step, values)
            self.show(values["train/loss"], values["train/lambda"], values["train/data_wait"])

    def show(self, loss: float | None = None, lambda_: float | None = None, data_wait: float | None = None) -> None:
        best = self.best["val/miou"] if self.best["step"] >= 0 else None
        val = self.metrics.get("val/miou")
        self.context.show(Progress(self.next_step, self.config.steps, loss, lambda_, val, best, data_wait))

    def count(self, samples: Samples | None, network: nn.Module) -> Tensor:
        matrix = self.evaluator.confusion_matrix(samples, network)
        self.classmix.train_mode()
        return matrix

    def validate(self) -> None:
        assert self.data.val is not None
        self.average_buffers()
        try:
            self.matrix = self.count(self.data.val, self.evaluated)
        except Interrupted:
            self.unevaluated = True
            self.save()
            self.saver.wait()
            raise
        self.metrics = self.evaluator.metrics("val", self.matrix)
        first = self.best["step"] < 0  # also where no pixel of val is labelled and mIoU is NaN
        if first or self.metrics["val/miou"] > self.best["val/miou"]:
            self.best = {"step": float(self.next_step), "val/miou": self.metrics["val/miou"]}
        self.metrics["val/best_miou"] = self.best["val/miou"]
        if self.run_log:
            self.run_log.metrics(self.next_step, self.metrics)
            if self.job.purpose == "run" or self.next_step == self.config.steps:
                for name, panel in draw_panels(self.classmix, self.evaluated, self.config, self.data).items():
                    self.run_log.image(name, panel, self.next_step)
            self.show()
        self.train_metrics.restart_clock()

    def finish(self) -> None:
        """Evaluate for the last time, log what a person looks at, report: Tune may end a trial in its last report."""
        match self.job.purpose:
            case "run":
                files = {name: self.best_file(name) for name in self.networks}
                figures, matrix = self.evaluator.report_on_test(self.networks, files)
                self.metrics |= figures | {"test/best_step": self.best["step"]}
                self.log_result("test", matrix)
            case "trial":
                matrix = self.count(self.data.val, self.evaluated) if self.matrix is None else self.matrix
                self.log_result("val", matrix)
            case "confirmation":
                matrix = self.count(self.data.test, self.evaluated)
                self.saver.checkpoints.save_weights({self.job.folder / checkpoint.BEST: self.evaluated.state_dict()})
                self.metrics |= self.evaluator.metrics("test", matrix)
                self.log_result("test", matrix)
        self.report()

    def best_file(self, network: str) -> Path:
        """The weights of the best step on val; what others read is those of the network that is evaluated."""
        name = checkpoint.BEST if network == self.config.eval.network else f"best_{network}.safetensors"
        return self.job.folder / name

    def log_result(self, role: str, matrix: Tensor) -> None:
        if self.run_log:
            self.evaluator.log(self.run_log, role, matrix)
            if role == "test":  # those of val are logged with each evaluation
                figures = {key: value for key, value in self.metrics.items() if key.startswith(role)}
                self.run_log.metrics(self.config.steps, figures)
            self.run_log.keep()

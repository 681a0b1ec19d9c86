"""The training loop, once, for a plain process, a Ray Train worker and a trial of a search."""

import math
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classmix_core.classmix import ClassMix, Mixed
from classmix_core.config import DataConfig
from classmix_core.data import EVALUATED, Data, Role, load_data
from classmix_core.data.loader import evaluation_batches
from classmix_core.data.samples import Samples
from classmix_core.ema import make_teacher
from classmix_core.evaluate import predict
from classmix_core.metrics import mean_iou
from classmix_core.models import build_model, head_prefixes
from classmix_core.optim import build_optimizer, build_schedule
from harness.config.train import TrainConfig
from harness.errors import Interrupted, RunFailed
from harness.tracking import Run
from harness.training import checkpoint
from harness.training.context import Progress, TrainContext
from harness.training.dataloaders import feed, training_set
from harness.training.evaluator import Evaluator
from harness.training.figures import mix_panel, prediction_panel
from harness.training.pretrained import load_weights_into
from harness.training.train_metrics import TrainMetrics

PANEL_ROWS = 4
NETWORKS = ("student", "teacher")

Purpose = Literal["run", "trial", "confirmation"]
"""run: val as it goes, test in the end; trial: val alone; confirmation: test alone, after the last step."""


@dataclass(frozen=True)
class TrainJob:
    """What every worker of a run is given."""

    config: TrainConfig
    folder: Path
    """Of the run, on storage that all workers share."""
    tracking_uri: str
    run_id: str
    purpose: Purpose = "run"

    @property
    def roles(self) -> tuple[Role, ...]:
        """What it may see besides what it learns from."""
        return {"run": ("val", "test"), "trial": ("val",), "confirmation": ("test",)}[self.purpose]  # type: ignore[return-value]


@lru_cache(maxsize=4)
def load_data_once(config: DataConfig, roles: tuple[Role, ...] = EVALUATED) -> Data:
    """The data set, kept for the next trial in this process."""
    return load_data(config, roles)


def train(job: TrainJob, context: TrainContext) -> dict[str, float]:
    """Train from the newest checkpoint, or from scratch, to the end; returns the last metrics.

    Raises:
        Interrupted: `context.stopping` said so; the state is saved.
        RunFailed: the loss is no longer finite.
    """
    trainer = Trainer(job, context)
    trainer.restore()
    trainer.run()
    return trainer.metrics


class Trainer:
    """State of one worker, and the loop over it."""

    def __init__(self, job: TrainJob, context: TrainContext) -> None:
        self.job, self.context, config = job, context, job.config
        self.config, self.device = config, context.device
        self.data = load_data_once(config.data, job.roles)
        self.num_classes = len(self.data.classes)
        self.evaluator = Evaluator(config, self.data, context)
        self.run_log = Run(job.tracking_uri, job.run_id) if context.rank == 0 else None
        self.next_step = 0
        self.metrics: dict[str, float] = {}
        self.best = {"step": -1.0, "val/miou": -1.0}
        self.matrix: Tensor | None = None
        self.unevaluated = False
        self.build()

    @property
    def own_seed(self) -> int:
        """Of this worker, where workers must differ."""
        return self.config.seed * 1_000_003 + self.context.rank

    def build(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)  # the same weights on every worker
        self.model = build_model(config.model, self.num_classes)
        if config.model.weights and checkpoint.newest(self.job.folder) is None:
            load_weights_into(self.model, config.model.weights)
        self.model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.teacher = make_teacher(self.model)
        torch.manual_seed(self.own_seed)  # what is dropped out differs by worker
        self.generator = torch.Generator(self.device).manual_seed(self.own_seed)
        if config.compile:
            self.model.compile()
            self.teacher.compile()
        self.optimizer = build_optimizer(self.model, head_prefixes(config.model.name), config.optim)
        self.schedule = build_schedule(self.optimizer, config.steps, config.optim.power)
        self.classmix = ClassMix(
            self.context.wrap(self.model),
            self.teacher,
            self.optimizer,
            self.schedule,
            num_classes=self.num_classes,
            config=config.ssl,
            steps=config.steps,
            generator=self.generator,
            flips=config.data.flip,
            precision=config.precision,
            mean_over_workers=self.context.mean if self.context.world_size > 1 else lambda value: value,
        )
        self.train_metrics = TrainMetrics(self.device, self.images_per_step())
        self.networks = dict(zip(NETWORKS, (self.model, self.teacher), strict=True))
        self.evaluated = self.networks[config.eval.network]

    # -- state --------------------------------------------------------------------------------------------------------

    def shared_state(self) -> dict[str, Any]:
        return {
            "step": self.next_step,
            "student": self.model.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "metrics": self.metrics,
            "unevaluated": self.unevaluated,
        }

    def own_state(self) -> dict[str, Any]:
        state = {"generator": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def save(self) -> None:
        self.average_buffers()
        if self.run_log:
            self.run_log.flush()  # a run that goes on from here does not log these steps again
        checkpoint.save(
            self.job.folder, self.next_step, self.shared_state, self.own_state(), self.context.rank, self.barrier
        )

    def restore(self) -> None:
        """Go on from the newest checkpoint of the run's folder, if there is one."""
        if self.run_log:
            self.run_log.load_logged_steps()
        found = checkpoint.newest(self.job.folder)
        if found is None:
            return
        shared, own = checkpoint.load(found, self.context.rank)
        self.next_step, self.best, self.metrics = shared["step"], shared["best"], shared["metrics"]
        self.unevaluated = shared["unevaluated"]
        self.model.load_state_dict(shared["student"])
        self.teacher.load_state_dict(shared["teacher"])
        self.optimizer.load_state_dict(shared["optimizer"])
        self.schedule.load_state_dict(shared["schedule"])
        if own is None or ("cuda" in own) != (self.device.type == "cuda"):
            # more workers than before, or another device: a stream of its own, no longer that of a straight run
            self.generator.manual_seed(self.own_seed + self.next_step)
            return
        self.generator.set_state(own["generator"])
        torch.set_rng_state(own["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def barrier(self) -> None:
        self.context.mean(torch.zeros(1, device=self.device))

    def average_buffers(self) -> None:
        """Give all workers the same running statistics: each has kept those of its own batches."""
        if self.context.world_size == 1:
            return
        for network in (self.model, self.teacher):
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.context.mean(buffer))

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
        batches = feed(self.config, self.data, self.context, self.next_step)
        while self.next_step < self.config.steps:
            self.train_metrics.add(self.classmix.step(next(batches), self.next_step))
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
        if stopping or done or step % (config.checkpoint_every or config.eval_every) == 0:
            self.save()
        if stopping and not done:
            raise Interrupted
        if done:
            self.finish()
        elif at_mark:
            self.report()

    def report(self) -> None:
        self.context.report({"step": self.next_step, **self.metrics})

    def images_per_step(self) -> int:
        data = self.config.data
        unlabelled = data.batch_unlabelled if self.config.ssl.unlabelled_weight else 0
        return (data.batch_labelled + unlabelled) * self.context.world_size

    def log_curve(self) -> None:
        if self.train_metrics.count == 0:
            return
        values = self.train_metrics.read(self.context.mean)
        if not math.isfinite(values["train/loss"]):
            if self.run_log:
                self.run_log.flush()
            advice = "a lower optim.lr, or ssl.unlabelled_weight, may help"
            raise RunFailed(f"the loss is {values['train/loss']} at step {self.next_step}: {advice}.")
        values["train/lr"] = float(self.schedule.get_last_lr()[0])
        if self.run_log:
            self.run_log.metrics(self.next_step, values)
            self.show(values["train/loss"], values["train/lambda"])

    def show(self, loss: float | None = None, lambda_: float | None = None) -> None:
        best = self.best["val/miou"] if self.best["step"] >= 0 else None
        val = self.metrics.get("val/miou")
        self.context.show(Progress(self.next_step, self.config.steps, loss, lambda_, val, best))

    # -- evaluation ---------------------------------------------------------------------------------------------------

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
            raise
        self.metrics = self.evaluator.metrics("val", self.matrix)
        first = self.best["step"] < 0  # also where no pixel of val is labelled and mIoU is NaN
        if first or self.metrics["val/miou"] > self.best["val/miou"]:
            self.best = {"step": float(self.next_step), "val/miou": self.metrics["val/miou"]}
            if self.run_log and self.job.purpose == "run":
                for name, network in self.networks.items():
                    checkpoint.save_weights(self.best_file(name), network)
        self.metrics["val/best_miou"] = self.best["val/miou"]
        if self.run_log:
            self.run_log.metrics(self.next_step, self.metrics)
            if self.job.purpose == "run" or self.next_step == self.config.steps:
                self.log_panels()
            self.run_log.flush()
            self.show()
        self.train_metrics.restart_clock()

    def log_panels(self) -> None:
        """The first unlabelled images mixed; the first of val with truth and prediction."""
        assert self.run_log
        assert self.data.val is not None
        if self.config.ssl.unlabelled_weight:
            mixed = self.mix_of_first()
            self.run_log.image("mix", mix_panel(mixed, self.data.palette, PANEL_ROWS), self.next_step)
        rows = self.data.val.subset(range(min(PANEL_ROWS, len(self.data.val.names))))
        size = self.config.data.resize
        image, truth = next(evaluation_batches(rows, PANEL_ROWS, resize=size, resize_labels=True, rank=0, world_size=1))
        self.evaluated.eval()
        prediction = predict(self.evaluated, image.to(self.device), inference=self.config.eval.inference())
        self.classmix.train_mode()
        self.run_log.image("prediction", prediction_panel(image, truth, prediction, self.data.palette), self.next_step)

    def mix_of_first(self) -> Mixed:
        """A mix that leaves the training's random streams and the teacher's statistics as they are."""
        rows = min(PANEL_ROWS, len(self.data.unlabelled.names))
        side = copy(self.classmix)
        side.teacher = deepcopy(self.teacher)
        side.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        samples = training_set(self.config.data, self.data.unlabelled, False, 0)
        images, paddings = zip(*(samples[index, index] for index in range(rows)), strict=True)
        return side.mix(torch.stack(images).to(self.device), torch.stack(paddings).to(self.device))

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Evaluate for the last time; log what a person looks at.

        Tune may end a trial inside its last report, so that comes last.
        """
        match self.job.purpose:
            case "run":
                self.finish_run()
            case "trial":
                matrix = self.count(self.data.val, self.evaluated) if self.matrix is None else self.matrix
                self.log_result("val", matrix)
            case "confirmation":
                matrix = self.count(self.data.test, self.evaluated)
                self.metrics = self.evaluator.metrics("test", matrix)
                self.log_result("test", matrix)
        self.report()

    def best_file(self, network: str) -> Path:
        """The weights of the best step on val; what others read is those of the network that is evaluated."""
        return self.job.folder / (
            checkpoint.BEST if network == self.config.eval.network else f"best_{network}.safetensors"
        )

    def finish_run(self) -> None:
        """Report on test: student and teacher, of the last step and of the best one on val.

        test/miou and all beside it are of `eval.network` at the best step.
        """
        chosen = self.config.eval.network
        for name, network in self.networks.items():
            self.metrics[f"test/final_{name}_miou"] = mean_iou(self.count(self.data.test, network))
            checkpoint.load_weights(self.best_file(name), network)
            matrix = self.count(self.data.test, network)
            self.metrics[f"test/best_{name}_miou"] = mean_iou(matrix)
            if name == chosen:
                result = matrix
        self.metrics |= self.evaluator.metrics("test", result)
        self.metrics |= {
            "test/final_miou": self.metrics[f"test/final_{chosen}_miou"],
            "test/best_step": self.best["step"],
        }
        self.log_result("test", result)

    def log_result(self, role: str, matrix: Tensor) -> None:
        if not self.run_log:
            return
        self.evaluator.log(self.run_log, role, matrix)
        if role == "test":  # those of val are logged with each evaluation
            reported = {key: value for key, value in self.metrics.items() if key.startswith(role)}
            self.run_log.metrics(self.config.steps, reported)
            self.run_log.flush()

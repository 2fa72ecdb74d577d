"""What to train: the legs (one model with one seed) that DVC would run and that are not finished already."""

import functools
import logging
from dataclasses import dataclass
from typing import Any

from pipeline.core import paths
from pipeline.core.checksums import SUMS
from pipeline.core.errors import PipelineError
from pipeline.experiment import Experiment
from pipeline.gan.checkpoint import checkpoints, step_of
from pipeline.gan.cost import step_cost
from pipeline.params import Params
from pipeline.repository import reproduce_reference
from pipeline.training.finished import FILES, KEPT


@dataclass(frozen=True)
class Leg:
    """One experiment of the comparison: one model with one seed."""

    experiment: Experiment

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def steps(self) -> int:
        return self.experiment.params.train.steps

    def step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max(map(step_of, checkpoints(self.experiment.work_folder())), default=0)

    def is_finished(self) -> bool:
        """Whether runs/ has this training's files; a checkpoint of the last step can lack the last measurement."""
        kept, out = self.experiment.work_folder() / KEPT / FILES / SUMS, paths.RUNS / self.name / SUMS
        both = kept.is_file() and out.is_file() and kept.read_bytes() == out.read_bytes()
        return both and self.step() >= self.steps

    @functools.cached_property
    def work_left(self) -> int:
        """Multiply-adds to the end of the budget."""
        experiment = self.experiment
        cost = step_cost(experiment.recipe, experiment.image_shape, experiment.n_classes)
        return cost * (self.steps - self.step())


def make_plan(params: Params, description: dict[str, Any]) -> list[Leg]:
    """The legs to train, that with most work left first."""
    compared = [(model, seed) for model in params.compare.models for seed in params.compare.seeds]
    experiments = [Experiment(params, model, seed, description) for model, seed in compared]
    run = legs_that_dvc_would_run([experiment.name for experiment in experiments])
    legs = [Leg(experiment) for experiment in experiments if experiment.name in run]
    return sorted((leg for leg in legs if not leg.is_finished()), key=lambda leg: -leg.work_left)


def legs_that_dvc_would_run(names: list[str]) -> set[str]:
    """Those of `names` whose stage train has changed and whose results are not in DVC's cache.

    A stage that cannot be checked is included: training it ahead costs time, but changes no result.

    Raises:
        PipelineError: there is no repository of DVC here.
    """
    from dvc.exceptions import DvcException  # imported here, because DVC is slow to import
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it would say of each stage that it is cached
    found = set()
    try:
        with Repo() as repo, repo.lock:
            for name in names:
                # Not public: DVC has no other way to ask whether a stage would be run or is cached.
                try:
                    stage = repo.stage.load_one("dvc.yaml", f"train@{name}")
                    if stage.changed():
                        stage.save_deps()
                        known = repo.stage_cache._load(stage)  # an earlier run with the present dependencies
                        if not known or not repo.stage_cache._create_stage(known, wdir=stage.wdir).outs_cached():
                            found.add(name)
                except (DvcException, AttributeError, TypeError):
                    found.add(name)
    except DvcException as error:
        raise PipelineError(
            f"DVC's repository cannot be read ({error}): run this in a clone of the repository"
        ) from None
    return found


def bring_reference_up_to_date() -> None:
    """Have DVC run what comes before the trainings: check, prepare, reference.

    Raises:
        PipelineError: it failed.
    """
    if reproduce_reference():
        raise PipelineError(
            "data/reference is not up to date, and DVC could not make it (see above): mend that, or wait for the other "
            "`dvc repro`, and run the same command again"
        )

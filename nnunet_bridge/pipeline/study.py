"""Run all steps on a study, from its files to the comparison of two models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject, Summary, json_of
from nnunet_bridge.core.words import ALL_CASES
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Dataset, Workspace, dataset_folder_name
from nnunet_bridge.nnunet.plans import planner_of
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.comparison.compare import ComparisonOptions, compare_dataset
from nnunet_bridge.pipeline.comparison.report import ComparisonSummary
from nnunet_bridge.pipeline.ingest.convert import ConversionSummary, convert_study
from nnunet_bridge.pipeline.labels.score import (
    ScoreOptions,
    ScoreSummary,
    score_folders,
)
from nnunet_bridge.pipeline.models.choose import ModelRequest
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images
from nnunet_bridge.pipeline.prediction.report import PredictSummary
from nnunet_bridge.pipeline.training.memory import Consent
from nnunet_bridge.pipeline.training.plan import (
    PlanningOptions,
    PlanSummary,
    plan_dataset,
)
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.status import TrainSummary
from nnunet_bridge.pipeline.training.train import train_dataset

CLEANING = "slice"
"""The source report's rule; `prediction.json` records what it changed."""

_SMOKE_SECONDS = {"convert": 10.0, "plan": 25.0, "train": 270.0, "predict": 25.0}
_LAST_SECONDS = {"record": 5.0, "score": 3.0, "compare": 5.0, "page": 10.0}


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """The model to train on a study, and how."""

    method: Method
    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    device: str = "auto"
    force: bool = False

    def planning(self) -> PlanningOptions:
        """Return the options of the stage plan."""
        planner = planner_of(self.method.stock_plans).word
        return PlanningOptions(self.configurations, (planner,), force=self.force)

    def training(self) -> TrainingRequest:
        """Return the runs of the stage train."""
        options = TrainingOptions(self.device, restart=self.force)
        return TrainingRequest(self.method, self.configurations, self.folds, options)

    def prediction(self, configuration: str) -> PredictionOptions:
        """Return the options of predicting with one configuration."""
        method, again = self.method, self.force
        words = (configuration,), self.folds, method.asked_budget, method.model
        model, rule = ModelRequest(*words), CLEANING
        return PredictionOptions(
            model, self.device, clean=rule, meshes=True, force=again
        )


@dataclass(frozen=True, slots=True)
class StudySummary:
    """The summaries of all stages, and the folder of their results."""

    conversion: ConversionSummary
    plan: PlanSummary
    training: TrainSummary
    predictions: Mapping[str, PredictSummary]
    scores: Mapping[str, ScoreSummary]
    comparison: ComparisonSummary | None
    results: Path
    caveat: str

    @property
    def exit_code(self) -> int:
        """The first that is not 0 among conversion, training, prediction and score."""
        stages: tuple[Summary, ...] = (
            self.training,
            self.conversion,
            *self.predictions.values(),
            *self.scores.values(),
        )
        return next((stage.exit_code for stage in stages if stage.exit_code), 0)

    def as_json(self) -> JsonObject:
        """Return the object that `run --json` and `demo --json` print."""
        return json_of(self)

    def as_text(self) -> str:
        """Return every stage in short, then the places of the results."""
        blocks = [self.conversion.as_text(), self.training.as_text()]
        for name, summary in self.scores.items():
            blocks.append(f"Unseen patients, {name}:\n{summary.as_text()}")
        lines = []
        if self.comparison:
            blocks.append(self.comparison.findings_as_text())
            lines.append(f"Comparison:   {self.comparison.folder / 'index.html'}")
        lines += [
            f"Scores:       {self.results / 'scores' / name / 'scores.csv'}"
            for name in self.scores
        ]
        lines += [
            f"Predictions:  {self.results / 'predictions' / name}"
            "  (one folder for each case: labels, preview.png, meshes)"
            for name in self.predictions
        ]
        if self.caveat:
            lines.append(f"Note:         {self.caveat}")
        return "\n\n".join([*blocks, "\n".join(lines)])


def run_study(
    study: Path,
    recipe: Recipe,
    workspace: Workspace,
    options: StudyOptions,
    *,
    progress: Progress | None = None,
    consent: Consent | None = None,
) -> StudySummary:
    """Convert, plan, train, predict, clean, score, mesh and compare.

    Every stage does only what is missing: an interrupted run resumes when it is called
    again. `consent` is asked for a training of days, see `train_dataset`.

    Raises `BridgeError` as the stages do. Refused cases do not stop the others; a study
    without any usable case does.
    """
    shown = progress or Silent()
    shown.outline(_outline(options))
    dataset = Dataset(workspace, dataset_folder_name(recipe.spec()))
    converted = convert_study(
        study,
        recipe,
        workspace.raw_dir,
        other_places=workspace.nnunet_dirs,
        force=options.force,
        progress=shown,
    )
    if all(case.outcome is Outcome.REFUSED for case in converted.cases):
        raise InputError(f"No case of the study can be used.\n{converted.as_text()}")
    planned = plan_dataset(dataset, options.planning(), progress=shown)
    request = options.training()
    trained = train_dataset(dataset, request, progress=shown, consent=consent)
    results_dir = dataset.record_dir / "results" / options.method.name
    predictions: dict[str, PredictSummary] = {}
    scores: dict[str, ScoreSummary] = {}
    comparison = None
    if not trained.failures:
        predictions = _predict(dataset, options, results_dir, shown)
        scores = _score(dataset, predictions, results_dir, shown)
        if len(options.configurations) > 1 and ALL_CASES not in options.folds:
            model, budget = options.method.model, options.method.asked_budget
            comparison = compare_dataset(
                dataset,
                results_dir / "comparison",
                ComparisonOptions(options.configurations, [model], budget),
                test_scores={name: found.scores for name, found in scores.items()},
                progress=shown,
            )
    stages = converted, planned, trained, predictions, scores, comparison
    return StudySummary(*stages, results_dir, options.method.budget.caveat)


def _predict(
    dataset: Dataset, options: StudyOptions, results_dir: Path, progress: Progress
) -> dict[str, PredictSummary]:
    """Predict the test cases, once with each configuration."""
    raw = RawDataset.open(dataset.raw_dir)
    images = [f for case in raw.test_cases() for f in raw.image_files(case, "Ts")]
    if not images:
        return {}
    return {
        configuration: predict_images(
            dataset,
            images,
            results_dir / "predictions" / configuration,
            options.prediction(configuration),
            progress=progress,
        )
        for configuration in options.configurations
    }


def _score(
    dataset: Dataset,
    predictions: Mapping[str, PredictSummary],
    results_dir: Path,
    progress: Progress,
) -> dict[str, ScoreSummary]:
    """Score the predictions of the cases that have a reference segmentation."""
    references = dataset.raw_dir / "labelsTs"
    if not references.is_dir() or not any(references.iterdir()):
        return {}
    return {
        configuration: score_folders(
            summary.out,
            references,
            results_dir / "scores" / configuration,
            ScoreOptions(dataset.raw_dir / "dataset.json", configuration=configuration),
            progress=progress,
        )
        for configuration, summary in predictions.items()
    }


def _outline(options: StudyOptions) -> list[tuple[str, float]]:
    """Return the stages, with about the seconds that each takes on two cores."""
    predict = [f"predict {name}" for name in options.configurations]
    seconds = {**_SMOKE_SECONDS, **_LAST_SECONDS}
    first, last = ["convert", "plan", "train", "record"], ["score", "compare", "page"]
    stages = [*first, *predict, *last]
    return [(stage, seconds[stage.split()[0]]) for stage in stages]

"""Training runs as objects: train, find, draw from and score them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfe.config.resolve import resolve, run_name
from selfe.config.schema import RunConfig
from selfe.run_folder.overview import RunOverview, overview
from selfe.run_folder.records import find_runs, read_config, require_run, run_names

if TYPE_CHECKING:
    import pandas as pd

    from selfe.api.images import Images
    from selfe.api.scores import Scores
    from selfe.run_folder.drawable import DrawableRun

Settings = Mapping[str, Any]
"""{"optim.lr": 1e-3}, or nested: {"optim": {"lr": 1e-3}}."""


def train(
    method: str,
    *,
    recipe: str = "shapes",
    variant: str = "",
    settings: Settings | None = None,
    seed: int = 0,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    device: str = "auto",
    init_from: str | None = None,
    tracker: str | None = None,
    progress: bool = True,
) -> Run:
    """Train a model, or continue the run of that name; a finished run is returned at once.

    The same call gives the same weights. Interrupted (Ctrl-C, or the kernel's stop button) it saves
    a checkpoint, and the same call continues from it.

    Args:
        method: objective, as `selfe-bench ls methods` lists them.
        recipe: network, data and length of the training (`selfe-bench ls recipes`).
        variant: ablation of the method.
        settings: what differs from the recipe (`selfe-bench ls settings`).
        seed: of initialisation, data order and noise, at least 0.
        name: of the run's folder below `runs_dir`; made from the other arguments if None.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        init_from: "RUN@STEP", another run's checkpoint to fork.
        tracker: mirror of the metrics, "tensorboard" for example.
        progress: print a line now and then.

    Raises:
        ValueError: for unknown names or settings that do not fit, or if the run in that folder has
            another configuration: in one sentence.
        selfe.errors.Stopped: after an interruption, once the checkpoint is written.
    """
    assignments = as_assignments(settings or {})
    config = resolve(recipe, method, variant=variant, seed=seed, assignments=assignments)
    runs_dir = Path(runs_dir)
    if name is not None and (name != Path(name).name or name.startswith(".") or not name):
        raise ValueError(f"name is that of a folder below runs_dir, got {name!r}")
    folder = runs_dir / (name or run_name(config))

    from selfe.distributed.environment import best_device
    from selfe.training.callbacks import Callbacks, Progress
    from selfe.training.run import train_run

    last = [-1]

    def show(now: Progress) -> None:
        part = 10 * now.step // now.iterations
        if progress and part != last[0]:
            last[0] = part
            line = f"{config.method}: {now.step:,}/{now.iterations:,}  loss {now.loss:.4f}"
            print(line, file=sys.stderr, flush=True)

    train_run(
        config,
        folder,
        runs_dir=runs_dir,
        device=best_device(device),
        resume=None,
        init_from=init_from,
        command=f"selfe.train({method!r}, recipe={recipe!r}, settings={dict(settings or {})!r})",
        tracker=tracker,
        callbacks=Callbacks(progress=show, message=lambda text: print(text, file=sys.stderr)),
    )
    return Run(folder, runs_dir=runs_dir)


def open_run(name: str | Path, runs_dir: str | Path = "runs") -> Run:
    """A run by name, NAME@STEP, or folder.

    Raises:
        ValueError: if there is none, with the nearest name; or several, with their folders.
    """
    folder, step = require_run(str(name), Path(runs_dir))
    return Run(folder, step=step, runs_dir=runs_dir)


def list_runs(runs_dir: str | Path = "runs") -> pd.DataFrame:
    """The runs below a folder, a row each, the newest first: name, method, variant, recipe,
    changed, seed, iteration, iterations, state, date, and the overall score by steps (of
    several protocols, that of most images)."""
    import pandas as pd

    found = find_runs(Path(runs_dir))
    names = run_names(found, Path(runs_dir))
    rows = []
    for folder in found:
        seen = overview(folder, names[folder])
        row = {k: v for k, v in seen.as_json().items() if k not in ("scores", "milestones")}
        row["scores"] = {score.steps: score.overall for score in seen.shown}
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.sort_values("date", ascending=False, ignore_index=True)


class Run:
    """A training run on disk.

    Attributes:
        folder: where it lies.
        step: the iteration whose weights are used; None for the newest checkpoint.
        config: the resolved configuration.
    """

    def __init__(
        self, folder: str | Path, *, step: int | None = None, runs_dir: str | Path = "runs"
    ) -> None:
        self.folder, self.step, self.runs_dir = Path(folder), step, Path(runs_dir)
        self.config: RunConfig = read_config(self.folder)
        self._drawing: dict[tuple[str, str], DrawableRun] = {}

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def overview(self) -> RunOverview:
        """Progress and scores of the run, as `selfe-bench ls runs` lists them."""
        return overview(self.folder, self.name, self.config)

    def at(self, step: int) -> Run:
        """The same run at the checkpoint of another iteration."""
        return Run(self.folder, step=step, runs_dir=self.runs_dir)

    def metrics(self) -> pd.DataFrame:
        """metrics.jsonl, a row per line: step, loss, learning rate, throughput ..."""
        import pandas as pd

        from selfe.training.metrics_log import read_lines

        return pd.DataFrame(read_lines(self.folder / "metrics.jsonl"))

    def sample(
        self,
        prompts: str | Sequence[str],
        steps: int = 4,
        *,
        images_per_prompt: int = 1,
        seed: int = 0,
        device: str = "auto",
        settings: Settings | None = None,
    ) -> Images:
        """Draw images.

        Args:
            prompts: one or several.
            steps: sampler steps, at least 1.
            images_per_prompt: at least 1; every image of a prompt has noise of its own.
            seed: fixes the images, whatever else is drawn in the same call.
            settings: of the sampler, in place of the run's: {"guidance_scale": 3.0}.

        Raises:
            ValueError: for settings that do not fit, or if there is no checkpoint.
        """
        from PIL import Image

        from selfe.api.images import Images
        from selfe.generator import image_seed

        if not isinstance(steps, int):
            raise ValueError(f"steps of `sample` is one number, got {steps!r}: call it for each")
        if images_per_prompt < 1:
            raise ValueError(f"images_per_prompt must be at least 1, got {images_per_prompt}")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        jobs = [(text, number) for text in texts for number in range(images_per_prompt)]
        generator = self._generator(device, settings or {})
        seeds = [image_seed(seed, text, number) for text, number in jobs]
        arrays = generator.generate([text for text, _ in jobs], steps, seeds)
        drawn = [(Image.fromarray(a), text) for a, (text, _) in zip(arrays, jobs, strict=True)
                 if a is not None]  # fmt: skip
        return Images([image for image, _ in drawn], [text for _, text in drawn], steps)

    def score(
        self,
        steps: int | Sequence[int] = (2, 4, 8, 50),
        *,
        suite: str | None = None,
        split: str = "",
        limit: int | None = None,
        images_per_prompt: int | None = None,
        seed: int = 0,
        device: str = "auto",
        settings: Settings | None = None,
        progress: bool = True,
    ) -> Scores:
        """Draw a suite's images and score them. Images and scores that exist already are kept.

        Args:
            steps: numbers of sampler steps.
            suite: name with version; None for that of the run's data.
            split: "heldout" (the default of shapes suites) or "validation".
            limit: at most so many prompts per task, which is another protocol.
            images_per_prompt: None for the suite's own number.
            seed: of the images.
            settings: of the sampler, in place of the run's.

        Raises:
            ValueError: for unknown names, missing weights, or a folder another process works on.
        """
        from evals.report.result_folders import read_result_folder
        from evals.scoring.benchmark import score_model
        from evals.scoring.settings import BenchmarkSettings
        from selfe.api.scores import Scores
        from selfe.distributed.environment import best_device
        from selfe.run_folder.records import find_checkpoint

        counts = [steps] if isinstance(steps, int) else sorted(set(steps))
        place = best_device(device)
        generator = self._generator(device, settings or {})
        benchmark = BenchmarkSettings(
            split=split,
            limit=limit,
            images_per_prompt=images_per_prompt,
            seed=seed,
            device=place,
            command=f"selfe.open_run({self.folder.as_posix()!r}).score({counts!r})",
        )
        name = suite or self.suite
        results = self.folder / "results" / find_checkpoint(self.folder, self.step).path.name
        folders = []
        for count in counts:
            with _told(progress) as tell:
                scored = score_model(generator, count, name, results, benchmark, tell)
            assert scored is not None, "one process scores and returns the result"
            folders.append(read_result_folder(scored[0]))
        return Scores(folders, benchmark.open_suite(name))

    def scores(self) -> Scores:
        """Existing results of the run, of every suite, checkpoint and number of steps."""
        from evals.report.result_folders import collect
        from selfe.api.scores import Scores

        place = self.folder / "results"
        return Scores(collect([place]) if place.is_dir() else [])

    @property
    def suite(self) -> str:
        """The suite that the run is scored on unless another is named."""
        data = self.config.data
        from evals.registry import suite_for

        return suite_for(data.preset if data.source == "shapes" else "")

    def _generator(self, device: str, settings: Settings) -> DrawableRun:
        from selfe.distributed.environment import best_device
        from selfe.run_folder.drawable import DrawableRun

        place = best_device(device)
        key = (place, json.dumps(dict(settings), sort_keys=True))
        if key not in self._drawing:
            self._drawing = {  # one at a time: a checkpoint may fill a GPU
                key: DrawableRun(self.folder, step=self.step, device=place, sampling=dict(settings))
            }
        return self._drawing[key]

    def __repr__(self) -> str:
        at = "" if self.step is None else f"@{self.step}"
        return f"Run({self.folder.as_posix() + at!r})"

    def _repr_html_(self) -> str:
        seen = self.overview
        rows = {
            "method": f"{seen.method} {seen.variant}".strip(),
            "recipe": seen.recipe,
            "changed": ", ".join(seen.changed or []) or "nothing",
            "seed": seen.seed,
            "iteration": f"{seen.iteration:,} of {seen.iterations:,} ({seen.state})",
            "scores": ", ".join(f"{s.steps} steps: {s.overall:.3f}" for s in seen.shown)
            or "none yet",
        }
        cells = "".join(f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in rows.items())
        return f"<b>{seen.name}</b><table>{cells}</table>"


@contextmanager
def _told(progress: bool) -> Iterator[Any]:
    """A callback of (name, done, total) that prints the beginning of every job."""
    seen: set[str] = set()

    def tell(name: str, done: int, total: int) -> None:
        if progress and name not in seen:
            seen.add(name)
            print(f"{name}: {total} images", file=sys.stderr, flush=True)

    yield tell


def as_assignments(settings: Settings, prefix: str = "") -> list[str]:
    """{"optim": {"lr": 1e-3}} -> ["optim.lr=0.001"], as `--set` takes them."""
    found: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and not prefix and "." not in key:
            found += as_assignments(value, f"{key}.")
        else:
            found.append(f"{prefix}{key}={json.dumps(value)}")
    return found

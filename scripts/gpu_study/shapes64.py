"""Part "shapes64": Self-E, Flow Matching and IMM trained and scored on the free 64 x 64 world."""

from __future__ import annotations

from functools import partial

from evals.scoring.benchmark import score_model
from evals.scoring.settings import BenchmarkSettings
from scripts import command_line
from scripts.gpu_study.rows import Measurement, Part, Row, Settings, Unfinished
from selfe.config.resolve import resolve, run_name
from selfe.config.schema import RunConfig
from selfe.data.registry import build_source
from selfe.errors import Stopped
from selfe.run_folder.model import count_parameters, load_run
from selfe.training.callbacks import Callbacks
from selfe.training.metrics_log import read_lines
from selfe.training.run import train_run

SUITE = "shapes-free@1"
STEP_COUNTS = (2, 4, 8, 50)
METHODS = ("fm", "selfe", "imm")
"""Flow matching is the cheapest and what the others are compared with; IMM, in fp32, takes most."""
MOST_PARAMETERS = 20_000_000
SAVING_SECONDS = 20
"""Left for the last checkpoint when the time is up."""
LEAST_SECONDS = 5
"""Of training: less is not begun."""
REHEARSAL = (
    "model.num_layers=1",
    "model.num_single_layers=1",
    "model.num_attention_heads=1",
    "model.attention_head_dim=16",
    "model.axes_dims_rope=[4,6,6]",
    "data.size=16",
    "train.iterations=6",
    "train.batch_size=8",
    "train.micro_batch_size=null",
    "train.checkpoint_every=2",
    "train.milestone_every=null",
    "train.sample_every=null",
    "train.log_every=2",
    "train.compile=false",
    "sampling.batch_slots=4",
)


def run_config(settings: Settings, method: str) -> RunConfig:
    # drawing sample sheets is left out: it would be timed as training
    usual = ("train.sample_every=null", "sampling.batch_slots=64")
    assignments = [*(REHEARSAL if settings.tiny else usual), *settings.assignments]
    return resolve("shapes-64", method, assignments=assignments)


def data_row(settings: Settings) -> Row:
    """Render and encode the training scenes, once for all methods; they are kept as a file."""
    config = run_config(settings, METHODS[0])
    build_source(
        config,
        with_fake=False,
        device=settings.device,
        cache_dir=settings.work / ".cache",  # where a run looks for it
        progress=lambda done, total: None,
    )
    return {"images": config.data.size}


def training_row(settings: Settings, method: str) -> Row:
    """Train, or go on training, until the end of the run or of the time.

    Raises:
        Unfinished: at the end of the time, once the checkpoint is written.
    """
    config = run_config(settings, method)
    parameters = count_parameters(config.model)
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{parameters} parameters, more than {MOST_PARAMETERS}")
    run_dir = settings.work / run_name(config)
    if settings.seconds_left() < SAVING_SECONDS + LEAST_SECONDS:
        raise Unfinished("no time left to train")
    try:
        state = train_run(
            config,
            run_dir,
            runs_dir=settings.work,
            device=settings.device,
            resume=(run_dir / "config.json").exists(),
            command=command_line(),
            callbacks=Callbacks(should_stop=lambda: settings.seconds_left() < SAVING_SECONDS),
        )
    except Stopped as stopped:
        raise Unfinished(str(stopped)) from None
    if state.step < config.train.iterations:
        raise Unfinished(f"stopped at iteration {state.step}")
    lines = [line for line in read_lines(run_dir / "metrics.jsonl") if "images_per_second" in line]
    rates = sorted(line["images_per_second"] for line in lines)
    return {
        "parameters": parameters,
        "iterations": state.step,
        "batch": config.train.batch_size,
        "images_s_median": rates[len(rates) // 2],
        "last_loss": lines[-1]["loss"],
    }


def scoring_row(settings: Settings, method: str, num_steps: int) -> Row:
    """The run's newest weights on held-out prompts, with its recipe's sampling settings.

    Raises:
        Unfinished: if the run has not come to its end.
    """
    config = run_config(settings, method)
    run_dir = settings.work / run_name(config)
    if not (run_dir / "config.json").exists():
        raise Unfinished("the run has not begun")
    generator = load_run(run_dir, device=settings.device)
    if generator.facts.iterations != config.train.iterations:
        raise Unfinished(f"the run is at iteration {generator.facts.iterations}")
    scored = score_model(
        generator,
        num_steps,
        SUITE,
        run_dir / "results",
        BenchmarkSettings(
            limit=1 if settings.tiny else None,
            images_per_prompt=1 if settings.tiny else None,
            allow_partial=settings.tiny,
            device=settings.device,
            command=command_line(),
        ),
        lambda name, done, total: None,
    )
    assert scored is not None  # there is one process
    _, result = scored
    overall = result.scores.overall
    assert overall is not None
    return {
        "steps": num_steps,
        "nfe": generator.nfe(num_steps),
        "overall": overall.mean,
        "low": overall.low,
        "high": overall.high,
        "images": result.scores.num_images,
        "draw_s_per_image": result.cost.get("wall_s_per_image", float("nan")),
    }


def rows_of(settings: Settings, method: str) -> list[Measurement]:
    train = partial(training_row, settings, method)
    scores = [(steps, partial(scoring_row, settings, method, steps)) for steps in STEP_COUNTS]
    return [
        Measurement(f"train {method}", 120, train),  # a minute of which compiles
        *(Measurement(f"{method}, {steps} steps", 60, run) for steps, run in scores),
    ]


def shapes64(settings: Settings) -> Part:
    return Part(
        "Recipe shapes-64, training seed 0: one run each, overall score on the held-out prompts "
        "with 95% intervals over prompts; sampling settings are those found on the 32 x 32 world, "
        "not searched here.",
        [
            Measurement("data", 240, partial(data_row, settings)),
            # each method is scored before the next is trained: what there is should be whole
            *(row for method in METHODS for row in rows_of(settings, method)),
        ],
    )

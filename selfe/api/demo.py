"""The demonstration: small trained models draw, GenEval's rules judge, a page shows both."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evals.base import Interval
from evals.scoring.judge_images import Verdict
from evals.stats import count_by_prompt, task_interval
from selfe.api.geneval import GenEval
from selfe.api.images import html_image
from selfe.files import write_atomically
from selfe.generator import TextToImage, image_seed

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MANIFEST = ASSETS / "demo.json"
PER_TASK = 2
"""Prompts of each task."""
SHOWN = 2
"""Images of each prompt on the page; all of them count."""


@dataclass(frozen=True)
class Drawn:
    """What one model drew at one number of steps, prompt by prompt.

    Attributes:
        images: of the prompts in order, `images_per_prompt` each; None where it was not finite.
        score: share of correct images, with an interval clustered by prompt.
    """

    label: str
    steps: int
    images: list[Image.Image | None]
    verdicts: list[Verdict]
    score: Interval


def demo_prompts(suite: str = "shapes@1", per_task: int = PER_TASK) -> list[str]:
    """The first held-out prompts of every task."""
    from evals.registry import open_suite
    from evals.suites.limit import limited

    return [record["prompt"] for record in limited(open_suite(suite), per_task).records]


def draw_and_judge(
    models: Sequence[TextToImage],
    prompts: Sequence[str],
    steps: Sequence[int],
    judge: GenEval,
    *,
    images_per_prompt: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Drawn]:
    """Every model at every number of steps on the same prompts and seeds."""
    jobs = [(prompt, n) for prompt in prompts for n in range(images_per_prompt)]
    texts = [prompt for prompt, _ in jobs]
    seeds = [image_seed(seed, prompt, n) for prompt, n in jobs]
    places = [prompts.index(prompt) for prompt in texts]
    drawn: list[Drawn] = []
    for model in models:
        for count in steps:
            arrays = model.generate(texts, count, seeds)
            images = [None if a is None else Image.fromarray(a) for a in arrays]
            blank = Image.new("RGB", (1, 1))
            verdicts = judge([image or blank for image in images], texts) if all(images) else [
                _judged(judge, image, text) for image, text in zip(images, texts, strict=True)
            ]  # fmt: skip
            counts = count_by_prompt(places, [verdict.correct for verdict in verdicts])
            label = f"{model.facts.label} {model.facts.variant}".strip()
            drawn.append(Drawn(label, count, images, verdicts, task_interval(counts)))
            progress(len(drawn), len(models) * len(steps))
    return drawn


def _judged(judge: GenEval, image: Image.Image | None, text: str) -> Verdict:
    if image is None:
        return Verdict(False, "not finite", 0.0, text, "")
    return judge([image], text)[0]


def write_page(drawn: Sequence[Drawn], prompts: Sequence[str], path: Path) -> Path:
    """One HTML file that needs no other: prompts down, models and steps across."""
    labels = list(dict.fromkeys(each.label for each in drawn))
    steps = list(dict.fromkeys(each.steps for each in drawn))
    by_place = {(each.label, each.steps): each for each in drawn}
    head = "".join(f'<th colspan="{len(steps)}">{html.escape(label)}</th>' for label in labels)
    sub = "".join(f"<th>{n} steps</th>" for _ in labels for n in steps)
    scores = "".join(f"<td>{_score(by_place[la, n].score)}</td>" for la in labels for n in steps)
    rows = []
    for number, prompt in enumerate(prompts):
        cells = "".join(
            f"<td>{_cell(by_place[label, count], number, len(prompts))}</td>"
            for label in labels
            for count in steps
        )
        rows.append(f"<tr><th>{html.escape(prompt)}</th>{cells}</tr>")
    images = len(drawn[0].images)
    page = _PAGE.format(
        head=head, sub=sub, scores=scores, rows="\n".join(rows), images=images, prompts=len(prompts)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _score(score: Interval) -> str:
    return f"<b>{score.mean:.2f}</b><br><small>{score.low:.2f} to {score.high:.2f}</small>"


def _cell(drawn: Drawn, number: int, prompts: int) -> str:
    each = len(drawn.images) // prompts
    tiles = []
    for place in range(number * each, number * each + min(SHOWN, each)):
        image, verdict = drawn.images[place], drawn.verdicts[place]
        title = html.escape("right" if verdict.correct else verdict.reason)
        picture = html_image(image, title, 64) if image else f"<i>{title}</i>"
        tiles.append(f'<span class="{"right" if verdict.correct else "wrong"}">{picture}</span>')
    return "".join(tiles)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>selfe-bench demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }}
table {{ border-collapse: collapse; }} th, td {{ padding: 4px 6px; text-align: center; }}
tbody th {{ font-weight: normal; text-align: left; max-width: 14em; }}
span {{ display: inline-block; margin: 1px; border: 3px solid; line-height: 0; }}
.right {{ border-color: #2a7d3f; border-style: solid; }}
.wrong {{ border-color: #b4232f; border-style: dashed; }}
.scroll {{ overflow-x: auto; }}
</style>
<h1>Few-step models of the shapes world</h1>
<p>The same {prompts} prompts and seeds for every model. A solid green frame is an image that meets
its prompt by GenEval's rules, a dashed red one does not; hover over it for the reason. Scores are
shares of {images} images each, with 95% intervals: a look, not a measurement.</p>
<div class="scroll"><table><thead><tr><th></th>{head}</tr><tr><th></th>{sub}</tr></thead>
<tbody><tr><th>share of images that are right</th>{scores}</tr>
{rows}</tbody></table></div>
</html>
"""

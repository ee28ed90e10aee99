"""Results as frames and tables: scores by task, verdicts by image, and the images that failed."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evals.base import TASKS
from evals.images import caption, sample_path
from evals.report.result_folders import ResultFolder
from evals.verdicts import read_verdicts

if TYPE_CHECKING:
    from evals.suites.base import Suite


class Scores:
    """Results of one or several models, one per number of steps.

    Iterating gives the result folders (`evals.report.result_folders.ResultFolder`).
    """

    def __init__(self, folders: Sequence[ResultFolder], suite: Suite | None = None) -> None:
        self._folders, self._suite = list(folders), suite

    def __iter__(self) -> Iterator[ResultFolder]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def frame(self) -> pd.DataFrame:
        """A row per result: model, variant, iteration, suite, steps, nfe, the overall score with
        its 95% interval, and the share of correct images of every task."""
        rows: list[dict[str, Any]] = []
        for folder in self._folders:
            result, overall = folder.result, folder.result.scores.overall
            rows.append(
                {
                    "model": result.model.label,
                    "variant": result.model.variant,
                    "iteration": result.model.iterations,
                    "suite": f"{result.protocol.suite} {result.protocol.split}".strip(),
                    "steps": result.sampling.steps,
                    "nfe": result.sampling.nfe,
                    "overall": overall and overall.mean,
                    "low": overall and overall.low,
                    "high": overall and overall.high,
                    **{t: s.mean for t, s in result.scores.tasks.items()},
                    "folder": str(folder.path),
                }
            )
        return pd.DataFrame(rows)

    def verdicts(self) -> pd.DataFrame:
        """A row per image: steps, prompt_id, sample_id, tag, prompt, correct, reason and file."""
        rows: list[dict[str, Any]] = []
        for folder in self._folders:
            prompts: dict[int, str] = {}
            for verdict in read_verdicts(folder.path):
                number = verdict.prompt_id
                if number not in prompts:
                    prompts[number] = self._prompt(folder.path, number)
                rows.append(
                    {
                        "steps": folder.result.sampling.steps,
                        **verdict.model_dump(),
                        "prompt": prompts[number],
                        "file": str(sample_path(folder.path, number, verdict.sample_id)),
                    }
                )
        return pd.DataFrame(rows)

    def failures(self, task: str | None = None) -> Failures:
        """The images that were judged wrong, of one task or of all.

        Raises:
            ValueError: for a task that no result has.
        """
        frame = self.verdicts()
        if task is not None and task not in {*frame.get("tag", [])}:
            raise ValueError(f"no task {task!r}; the tasks are {', '.join(TASKS)}")
        wrong = frame[~frame["correct"].astype(bool)] if len(frame) else frame
        return Failures(wrong[wrong["tag"] == task] if task else wrong)

    def _prompt(self, folder: Path, prompt_id: int) -> str:
        if self._suite is not None and prompt_id < len(self._suite.records):
            return str(self._suite.records[prompt_id]["prompt"])
        return caption(folder, prompt_id)

    def __repr__(self) -> str:
        frame = self.frame()
        if frame.empty:
            return "no results"
        shown = [c for c in frame.columns if c not in ("folder", "suite")]
        return frame[shown].to_string(index=False, float_format="%.3f")

    def _repr_html_(self) -> str:
        frame = self.frame()
        return frame.drop(columns="folder", errors="ignore").to_html(
            index=False, float_format="%.3f", na_rep=""
        )


class Failures:
    """Images that were judged wrong, with prompts and reasons."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame.reset_index(drop=True)

    def __len__(self) -> int:
        return len(self._frame)

    def frame(self) -> pd.DataFrame:
        """The rows of `Scores.verdicts` that are wrong."""
        return self._frame

    @cached_property
    def reasons(self) -> pd.Series:
        """How often each reason was given, the most frequent first."""
        return self._frame["reason"].value_counts()

    def show(self, most: int = 12) -> Failures:
        """The first so many, displayed in a notebook and printed elsewhere; returns them."""
        chosen = Failures(self._frame.head(most))
        try:
            from IPython import get_ipython
            from IPython.display import display

            in_notebook = get_ipython() is not None
        except ImportError:
            in_notebook = False
        if in_notebook:
            display(chosen)
        else:
            print(chosen)
        return chosen

    def __repr__(self) -> str:
        if self._frame.empty:
            return "no failures"
        lines = []
        for row in self._frame.to_dict("records"):
            lines.append(f"{row['prompt']} ({row['steps']} steps)")
            lines += [f"  {reason}" for reason in row["reason"].splitlines()]
            lines.append(f"  {row['file']}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from PIL import Image

        from selfe.api.images import html_image

        tiles = []
        for row in self._frame.to_dict("records"):
            path = Path(row["file"])
            picture = html_image(Image.open(path).convert("RGB")) if path.is_file() else "no image"
            words = html.escape(f"{row['prompt']} ({row['steps']} steps)")
            reason = html.escape(row["reason"]).replace("\n", "<br>")
            tiles.append(
                f'<div style="display:inline-block;width:150px;vertical-align:top;margin:4px">'
                f"{picture}<br>{words}<br><small>{reason}</small></div>"
            )
        return "".join(tiles) or "no failures"

"""Self-E: any-step text-to-image training by self-evaluation (arXiv 2512.22374).

The public API: `selfe.train`, `selfe.open_run`, `selfe.list_runs`, `selfe.compare`, `selfe.GenEval`
and the classes they return. Names are imported when they are first used: `import selfe` is cheap.
Everything else in the packages `selfe`, `baselines` and `evals` may change without notice.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Comparison": "selfe.api.comparison",
    "Failures": "selfe.api.scores",
    "GenEval": "selfe.api.geneval",
    "Images": "selfe.api.images",
    "Run": "selfe.api.runs",
    "Scores": "selfe.api.scores",
    "Verdict": "selfe.api.geneval",
    "compare": "selfe.api.comparison",
    "list_runs": "selfe.api.runs",
    "open_run": "selfe.api.runs",
    "train": "selfe.api.runs",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("selfe-bench")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Two results of one protocol, compared prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evals.base import Frozen, ImageVerdict, Interval, ProtocolFacts, Result
from evals.images import caption
from evals.multiplicity import holm, verdict
from evals.report.model_columns import eta_of, guidance_text
from evals.results import read_result
from evals.stats import Difference, PairedCounts, paired_difference
from evals.verdicts import counts_by_task, read_verdicts


class FlippedPrompt(Frozen):
    """A prompt of which A and B drew different numbers of correct images."""

    prompt_id: int
    tag: str
    a_correct: int
    b_correct: int
    images: int
    prompt: str = ""
    """The caption, where the images lie beside the result."""


class ComparedScore(Frozen):
    """One task, or the overall score.

    Attributes:
        a, b: shares of correct images.
        difference: a - b with its 95% interval, paired over prompts.
        p_value: of a sign-flip test over prompts.
        resolved: whether the interval leaves out 0.
        detectable: the smallest true difference this set resolves with 80% power.
        differing: prompts that A and B drew differently.
        p_holm: of a task, p_value after Holm's adjustment over all tasks; None of the overall
            score, which is a question of its own.
    """

    a: float
    b: float
    difference: Interval
    p_value: float
    resolved: bool
    detectable: float
    differing: int | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """In words; an interval is not called resolved where the exact test cannot be."""
        return verdict(self.resolved, self.p_holm, self.differing)


class Comparison(Frozen):
    """A minus B."""

    a: str
    b: str
    suite: str
    overall: ComparedScore
    tasks: dict[str, ComparedScore]
    flipped: tuple[FlippedPrompt, ...]
    """The largest change first."""
    partial: bool

    @property
    def power_note(self) -> str:
        return (
            f"this set resolves overall differences above {self.overall.detectable:.3f} "
            "(80% power, 95% confidence)"
        )


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare two result folders.

    Raises:
        ValueError: if their protocols differ (names in what), or their images do.
    """
    results = (read_result(a), read_result(b))
    check_same_protocol(*results)
    names = tuple(name_of(result) for result in results)
    return compare_verdicts(
        read_verdicts(a),
        read_verdicts(b),
        names=names if names[0] != names[1] else (str(a), str(b)),
        suite=results[0].protocol.suite,
        partial=any(r.scores.partial for r in results),
        caption_of=lambda prompt_id: caption(Path(a), prompt_id) or caption(Path(b), prompt_id),
    )


def name_of(result: Result) -> str:
    """Label, variant, number of steps and what else the images were sampled with."""
    model = " ".join(word for word in (result.model.label, result.model.variant) if word)
    guidance, eta = guidance_text(result), eta_of(result)
    s_fraction = result.sampling.settings.get("s_fraction")
    parts = (
        f"{result.sampling.steps} steps",
        f"guidance {guidance}" if guidance else "",
        "" if eta is None else f"eta {eta:g}",
        f"s at {s_fraction:g}" if s_fraction else "",
        "s = t" if result.sampling.settings.get("s") == "t" else "",
    )
    return ", ".join(part for part in (model, *parts) if part)


def check_same_protocol(a: Result, b: Result) -> None:
    """Raises ValueError naming every fact of the protocol in which the two differ.

    What a comparison names itself, how images were drawn, may differ.
    """
    different = [
        f"{name}: {getattr(a.protocol, name)!r} and {getattr(b.protocol, name)!r}"
        for name in ProtocolFacts.model_fields
        if name != "inference" and getattr(a.protocol, name) != getattr(b.protocol, name)
    ]
    if different:
        raise ValueError(
            "results of different protocols are not compared; they differ in "
            + "; ".join(different)
        )


def compare_verdicts(
    a: Sequence[ImageVerdict],
    b: Sequence[ImageVerdict],
    *,
    names: Sequence[str] = ("A", "B"),
    suite: str = "",
    partial: bool = False,
    caption_of: Callable[[int], str] = lambda prompt_id: "",
) -> Comparison:
    """Compare verdicts over the same images.

    Raises:
        ValueError: if there are none, or the two do not cover the same images.
    """
    images_a, images_b = (sorted((v.prompt_id, v.sample_id, v.tag) for v in s) for s in (a, b))
    if not images_a or images_a != images_b:
        raise ValueError(
            f"the two results do not cover the same images ({len(a)} and {len(b)}), so they cannot "
            "be paired; score both completely"
        )
    counts_a, counts_b = (counts_by_task(side) for side in (a, b))
    pairs = {tag: PairedCounts(counts_a[tag], counts_b[tag]) for tag in counts_a}
    return Comparison(
        a=names[0],
        b=names[1],
        suite=suite,
        overall=_compared(pairs),
        tasks=_adjusted({tag: _compared({tag: pair}) for tag, pair in pairs.items()}),
        flipped=tuple(_flipped(a, b, caption_of)),
        partial=partial,
    )


def _compared(pairs: dict[str, PairedCounts]) -> ComparedScore:
    difference: Difference = paired_difference(pairs)
    return ComparedScore(
        a=sum(p.a.share for p in pairs.values()) / len(pairs),
        b=sum(p.b.share for p in pairs.values()) / len(pairs),
        difference=difference.interval,
        p_value=difference.p_value,
        resolved=difference.resolved,
        detectable=difference.detectable,
        differing=difference.differing,
    )


def _adjusted(tasks: dict[str, ComparedScore]) -> dict[str, ComparedScore]:
    adjusted = holm([score.p_value for score in tasks.values()])
    return {
        tag: score.model_copy(update={"p_holm": p})
        for (tag, score), p in zip(tasks.items(), adjusted, strict=True)
    }


def _flipped(
    a: Sequence[ImageVerdict], b: Sequence[ImageVerdict], caption_of: Callable[[int], str]
) -> list[FlippedPrompt]:
    tags = {v.prompt_id: v.tag for v in a}
    hits: dict[int, list[int]] = {i: [0, 0, 0] for i in tags}
    for v in a:
        hits[v.prompt_id][0] += v.correct
        hits[v.prompt_id][2] += 1
    for v in b:
        hits[v.prompt_id][1] += v.correct
    changed = [
        FlippedPrompt(
            prompt_id=i, tag=tags[i], a_correct=x, b_correct=y, images=n, prompt=caption_of(i)
        )
        for i, (x, y, n) in hits.items()
        if x != y
    ]
    return sorted(changed, key=lambda f: (-abs(f.a_correct - f.b_correct), f.prompt_id))


def as_markdown(comparison: Comparison, most: int = 20) -> str:
    """The comparison as a table, its power note, and the prompts that flipped most.

    Args:
        most: so many flips at most.
    """
    c = comparison
    partial = ", PARTIAL SET" if c.partial else ""
    lines = [
        f"A = {c.a}; B = {c.b} ({c.suite}{partial})".replace(" ()", ""),
        "",
        "| task | A | B | A - B | 95% interval | p | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, score in [*c.tasks.items(), ("overall", c.overall)]:
        d = score.difference
        lines.append(
            f"| {name} | {score.a:.3f} | {score.b:.3f} | {d.mean:+.3f} | {d.low:+.3f} to "
            f"{d.high:+.3f} | {score.p_value:.4f} | {score.verdict} |"
        )
    better = sum(f.a_correct > f.b_correct for f in c.flipped)
    lines += [
        "",
        "Intervals and p are each row's own; verdicts of tasks are adjusted together (Holm).",
        "",
        f"Power: {c.power_note}.",
        "",
        f"{len(c.flipped)} prompts flipped: {better} better under A, "
        f"{len(c.flipped) - better} better under B.",
    ]
    for f in c.flipped[:most]:
        lines.append(
            f"- {f.prompt_id:05d} {f.tag}: {f.a_correct}/{f.images} against "
            f"{f.b_correct}/{f.images} {f.prompt}".rstrip()
        )
    if c.flipped[most:]:
        lines.append(f"- and {len(c.flipped) - most} more; --json lists all")
    return "\n".join(lines) + "\n"

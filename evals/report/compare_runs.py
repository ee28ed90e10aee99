"""Two models compared over every number of steps, and over the training seeds they share.

One comparison asks many questions. The p-values of the overall scores are adjusted for their
number by Holm's method (1979), and so, by themselves, are those of the single tasks: a verdict in a
row holds although the other rows were looked at, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from evals.base import Frozen, Interval
from evals.images import caption
from evals.multiplicity import LEVEL, NOT_RESOLVED, RESOLVED, holm, least_p, verdict
from evals.report.compare import check_same_protocol
from evals.report.result_folders import ResultFolder
from evals.report.rows import choose, configuration_of
from evals.report.training_seeds import mean_over, only_task, tested_over
from evals.results import protocol_key, protocol_slug
from evals.verdicts import Counts, difference_of_counts

OVERALL = "overall"
Side = tuple[str, Sequence[ResultFolder], Sequence[ResultFolder]]
"""Name, results of the model itself, results of its configuration with other training seeds."""
BySeed = Mapping[int, ResultFolder]
Pairs = Mapping[int, tuple[ResultFolder, ResultFolder]]
"""Training seed -> results of A and B."""


class ComparedRow(Frozen):
    """One task, or the overall score, at one number of steps.

    Attributes:
        a, b: shares of correct images, means over `seeds`.
        difference: a - b with its 95% interval: for other prompts, and of several seeds for other
            trainings as well.
        p_value: two-sided; of a sign-flip test over prompts, or, over seeds, that at which the
            interval would end at 0.
        p_adjusted: by Holm's method, among the rows of overall scores or those of tasks.
        verdict: "A" or "B" where the interval leaves out 0 and the adjusted p-value is below 0.05,
            else "not resolved". The two may disagree over one training: scores near 0 or 1 have
            wide intervals, of which a sign-flip test knows nothing.
        seeds: of the trainings.
        differing: prompts that A and B drew differently; None over several seeds, where no exact
            test over prompts is made.
    """

    steps: int
    task: str
    a: float
    b: float
    difference: Interval
    p_value: float
    p_adjusted: float
    verdict: str
    seeds: tuple[int, ...]
    differing: int | None = None


class FlippedPrompt(Frozen):
    """A prompt of which A and B drew different numbers of correct images at a number of steps."""

    steps: int
    prompt_id: int
    tag: str
    prompt: str
    a_correct: int
    b_correct: int
    images: int


class RunsComparison(Frozen):
    """A minus B; rows by steps, the overall score first; flips by the size of the change."""

    a: str
    b: str
    protocol: str
    rows: tuple[ComparedRow, ...]
    flipped: tuple[FlippedPrompt, ...]
    notes: tuple[str, ...] = ()


def compare_runs(a: Side, b: Side, *, steps: Sequence[int] | None = None) -> RunsComparison:
    """Compare two models.

    Raises:
        ValueError: if they share no protocol at any of the steps.
    """
    notes: list[str] = []
    by_steps = paired_results(a, b, steps=steps, notes=notes)
    drafts: list[ComparedRow] = []
    flipped: list[FlippedPrompt] = []
    for count, pairs in by_steps.items():
        drafts += _rows(count, pairs)
        flipped += _flips(count, list(pairs.values()))
    notes += _too_few(drafts)
    first, _ = next(iter(next(iter(by_steps.values())).values()))
    return RunsComparison(
        a=a[0],
        b=b[0],
        protocol=protocol_slug(first.result.protocol),
        rows=tuple(_judged(drafts)),
        flipped=tuple(sorted(flipped, key=lambda f: (-abs(f.a_correct - f.b_correct), f.steps))),
        notes=tuple(dict.fromkeys(notes)),
    )


def _too_few(rows: Sequence[ComparedRow]) -> list[str]:
    """Of overall scores whose exact test could not resolve anything."""
    return [
        f"In {row.steps} steps {row.differing} of the prompts differ: p cannot go below "
        f"{least_p(row.differing):.3g}, so that this cannot be told."
        for row in rows
        if row.task == OVERALL and row.differing is not None and least_p(row.differing) > LEVEL
    ]


def paired_results(
    a: Side, b: Side, *, steps: Sequence[int] | None = None, notes: list[str] | None = None
) -> dict[int, Pairs]:
    """The results that are compared: by number of steps, then by training seed.

    Args:
        steps: only these.
        notes: gets what a reader must know of the choice.

    Raises:
        ValueError: if they share no protocol at any of the steps.
    """
    notes = [] if notes is None else notes
    ours, its = (_by_steps(side) for side in (a, b))
    common = sorted(ours.keys() & its.keys(), key=lambda key: (key[0], key[1]))
    if steps is not None:
        common = [key for key in common if key[1] in set(steps)]
    if not common:
        raise ValueError(_nothing_shared(a, b, steps))
    protocols: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for key in common:
        protocols[key[0]].append(key)
    chosen = max(protocols.values(), key=len)
    if len(protocols) > 1:
        other = [protocol_slug(_any(ours[k[0]]).result.protocol) for k in protocols.values()
                 if k is not chosen]  # fmt: skip
        notes.append(f"they share results of other protocols, too: {', '.join(other)}")
    same = configuration_of(_any(ours[chosen[0]])) == configuration_of(_any(its[chosen[0]]))
    return {key[1]: _pairs(a, b, ours[key], its[key], same, notes) for key in chosen}


def _by_steps(side: Side) -> dict[tuple[str, int], dict[int, ResultFolder]]:
    """(protocol, steps) -> training seed -> result, the model's own at its seed."""
    _, own, others = side
    by_training: dict[tuple[str, int], list[ResultFolder]] = defaultdict(list)
    for number, group in enumerate((own, others)):
        for folder in group:
            seed = _seed(folder)
            if number and any(_seed(f) == seed for f in own):
                continue  # the model that was named stands for its seed
            by_training[protocol_key(folder.result.protocol), seed].append(folder)
    found: dict[tuple[str, int], dict[int, ResultFolder]] = defaultdict(dict)
    for (protocol, seed), folders in by_training.items():
        for cell, folder in choose(folders, []).items():
            found[protocol, cell[3]].setdefault(seed, folder)
    return {key: by_seed for key, by_seed in found.items() if _has_own(by_seed, own)}


def _has_own(by_seed: BySeed, own: Sequence[ResultFolder]) -> bool:
    return any(folder.path == each.path for folder in by_seed.values() for each in own)


def _pairs(
    a: Side, b: Side, ours: BySeed, its: BySeed, same: bool, notes: list[str]
) -> dict[int, tuple[ResultFolder, ResultFolder]]:
    """Training seed -> results that belong together; of one seed where none is shared."""
    shared = sorted(ours.keys() & its.keys())
    named = [next(s for s, f in side.items() if _has_own({s: f}, own[1]))
             for side, own in ((ours, a), (its, b))]  # fmt: skip
    if not same and shared:
        # sampling settings decide as well: seeds join only where they agree with the named one's
        pairs = {
            seed: (ours[seed], its[seed])
            for seed in shared
            if _sampling(ours[seed]) == _sampling(ours[named[0]])
            and _sampling(its[seed]) == _sampling(its[named[1]])
        }
        if pairs:
            for which, seed in zip("AB", named, strict=True):
                if seed not in pairs:
                    notes.append(
                        f"{which} as named has training seed {seed}, which the other side lacks: "
                        f"compared are seeds {', '.join(map(str, pairs))}"
                    )
            return pairs
    x, y = ours[named[0]], its[named[1]]
    if not same:
        notes.append(f"no training seed is shared: seed {named[0]} of A beside {named[1]} of B")
    return {named[0]: (x, y)}


def _rows(steps: int, pairs: Pairs) -> list[ComparedRow]:
    for x, y in pairs.values():
        check_same_protocol(x.result, y.result)
    counts = [(x.counts, y.counts) for x, y in pairs.values()]
    seeds = tuple(sorted(pairs))
    rows = [_row(steps, OVERALL, counts, seeds)]
    for task in counts[0][0]:
        parts = [(only_task(task, x), only_task(task, y)) for x, y in counts]
        rows.append(_row(steps, task, parts, seeds))
    return rows


def _row(
    steps: int, task: str, pairs: Sequence[tuple[Counts, Counts]], seeds: tuple[int, ...]
) -> ComparedRow:
    differing = None
    if len(pairs) == 1:
        single = difference_of_counts(*pairs[0])
        difference, p_value, differing = single.interval, single.p_value, single.differing
    else:
        difference, p_value = tested_over(pairs)
    a, b = (_mean([pair[side] for pair in pairs]) for side in (0, 1))
    return ComparedRow(
        steps=steps,
        task=task,
        a=a,
        b=b,
        difference=difference,
        p_value=p_value,
        p_adjusted=p_value,
        verdict=NOT_RESOLVED,
        seeds=seeds,
        differing=differing,
    )


def _mean(trainings: Sequence[Counts]) -> float:
    if len(trainings) > 1:
        return mean_over(trainings).mean
    return sum(task.share for task in trainings[0].values()) / len(trainings[0])


def _judged(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows with adjusted p-values and verdicts."""
    adjusted: dict[int, float] = {}
    for family in (True, False):
        members = [i for i, row in enumerate(rows) if (row.task == OVERALL) == family]
        values = holm([rows[i].p_value for i in members])
        adjusted |= dict(zip(members, values, strict=True))
    judged = []
    for place, row in enumerate(rows):
        d = row.difference
        better = "A" if d.mean > 0 else "B"
        resolved = verdict(d.low > 0 or d.high < 0, adjusted[place]) == RESOLVED
        told = better if resolved else NOT_RESOLVED
        judged.append(row.model_copy(update={"p_adjusted": adjusted[place], "verdict": told}))
    return judged


def _flips(steps: int, pairs: Sequence[tuple[ResultFolder, ResultFolder]]) -> list[FlippedPrompt]:
    """Counts of every prompt, added over the trainings, where the two differ."""
    hits: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    tags: dict[int, str] = {}
    for pair in pairs:
        for side, folder in enumerate(pair):
            grouped = folder.verdicts.groupby("prompt_id")
            for number, part in grouped:
                prompt_id = int(number)
                hits[prompt_id][side] += int(part["correct"].sum())
                hits[prompt_id][2] += len(part) * (side == 0)
                tags[prompt_id] = str(part["tag"].iloc[0])
    x, y = pairs[0]
    return [
        FlippedPrompt(
            steps=steps,
            prompt_id=prompt_id,
            tag=tags[prompt_id],
            prompt=caption(x.path, prompt_id) or caption(y.path, prompt_id),
            a_correct=a,
            b_correct=b,
            images=images,
        )
        for prompt_id, (a, b, images) in hits.items()
        if a != b
    ]


def as_text(comparison: RunsComparison, most: int = 8) -> str:
    """The comparison for a terminal, at most 60 columns wide but for prompts.

    Args:
        most: flipped prompts shown at most.
    """
    c = comparison
    lines = [f"A = {c.a}", f"B = {c.b}", f"on {c.protocol}", ""]
    lines.append(f"{'step':>4} {'task':<14}{'A':>5} {'B':>5} {'A - B [95% interval]':<22} better")
    for row in c.rows:
        d = row.difference
        steps = str(row.steps) if row.task == OVERALL else ""
        better = "-" if row.verdict == NOT_RESOLVED else row.verdict
        lines.append(
            f"{steps:>4} {row.task:<14}{row.a:>5.3f} {row.b:>5.3f} "
            f"{d.mean:+.3f} [{d.low:+.3f},{d.high:+.3f}] {better}"
        )
    seeds = c.rows[0].seeds
    over = (
        f"over training seeds {', '.join(map(str, seeds))}: intervals hold for other trainings"
        if len(seeds) > 1
        else "of one training each: intervals hold for other prompts, not for other trainings"
    )
    lines += [
        "",
        f"Differences {over}.",
        "Better: the one that is ahead by its interval, and after Holm's adjustment for the number "
        "of rows (overall scores and tasks apart); - where neither is.",
        *c.notes,
    ]
    if c.flipped:
        lines += ["", f"{len(c.flipped)} prompts flipped; those that changed most:"]
        for f in c.flipped[:most]:
            lines.append(
                f"  {f.steps} steps, A {f.a_correct}/{f.images}, B {f.b_correct}/{f.images}: "
                f"{f.prompt or f'prompt {f.prompt_id:05d}'}"
            )
    return "\n".join(lines)


def _seed(folder: ResultFolder) -> int:
    return int(folder.result.model.training.get("seed", 0))


def _sampling(folder: ResultFolder) -> object:
    return folder.result.sampling.settings


def _any(by_seed: BySeed) -> ResultFolder:
    return next(iter(by_seed.values()))


def _nothing_shared(a: Side, b: Side, steps: Sequence[int] | None) -> str:
    def listed(side: Side) -> str:
        found = sorted(
            {(protocol_slug(f.result.protocol), f.result.sampling.steps) for f in side[1]}
        )
        return "; ".join(f"{slug} at {count} steps" for slug, count in found) or "none"

    asked = f" at {', '.join(map(str, steps))} steps" if steps is not None else ""
    return (
        f"{a[0]} and {b[0]} share no protocol{asked}: {a[0]} has results of {listed(a)}; {b[0]} of "
        f"{listed(b)}; score both alike with `selfe-bench geneval`"
    )

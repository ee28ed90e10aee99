"""Our mmcv-free Mask2Former beside mmdet 3.3: same weights, same images, same objects and verdicts.

    # random weights, the published architecture, both key layouts, plain and sharpened class head
    python -m scripts.checks.mask2former_parity

    # the same in double precision, where rounding no longer tips single pixels of masks
    python -m scripts.checks.mask2former_parity --double --out DOUBLE.json

    # the same with real weights and your own images: what a user with the weights can confirm
    python -m scripts.checks.mask2former_parity --weights WEIGHTS.pth --images FOLDER

    # outputs of mmdet on a small network, kept in tests/assets so that CI needs no mmdet
    python -m scripts.checks.mask2former_parity --golden tests/assets/mask2former_golden.npz

Needs mmdet (scripts/install_mmdet.sh). The weights go through checkpoint files as mmengine writes
them, one in each key layout; images take turns between the two. Every finished image is kept in the
report, and a second call continues from there. What both class heads share is evaluated once.

Mask2Former has two hard thresholds: it attends where its last mask has a probability of at least
one half, and the final masks are cut there. A pixel that is nearer to it than the rounding of
either side changes a score by one part in the number of the mask's pixels. In single precision
chance therefore bounds the agreement; double precision shows whether the two networks are one.

Longer than other files, so that both sides, their comparison and its tolerances are read together.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.base import Detection
from evals.detectors import mmdet as official
from evals.detectors.mask2former import checkpoint, detector, keys, selftest
from evals.suites.rules import judge
from scripts import command_line
from selfe.provenance import provenance

# (long, short) edge to fit -> heights and widths of images. Beside the published edges, smaller
# ones of the same shape, which cost a fraction.
PUBLISHED = (1333, 800)
IMAGES = {
    PUBLISHED: [(768, 768), (450, 600), (1000, 300)],
    (667, 400): [(512, 512), (480, 640), (300, 1000)],
    (333, 200): [
        (256, 320), (512, 384), (640, 480), (321, 457), (1024, 256), (256, 1024), (400, 400),
        (1024, 768), (333, 333), (600, 800), (799, 1333), (260, 500), (1000, 1024), (150, 90),
        (720, 1280), (500, 333), (224, 224),
    ],
}  # fmt: skip
GOLDEN = [(96, 128), (150, 90), (128, 128)]
GOLDEN_EDGES = (213, 128)
# Class head times this: the sharpened scores cross both of GenEval's thresholds.
CLASS_GAINS = {"plain": 1.0, "sharpened": 5.0}
SMALL_CLASS_GAINS = {"plain": 1.0, "sharpened": 12.0}
# Keeps the hundred queries of the large random network apart; the small one has less depth.
ATTENTION_GAIN = 0.1
LIMITS = {"box_px": 1.0, "score": 1e-4, "mask_iou": 0.999}
# Objects whose scores are nearer than this have no order: both sides round differently.
TIE = 1e-5
# What is said of mmdet in single precision beside itself in double.
ROUNDING = ("labels_equal", "score", "box_px", "mask_iou", "verdicts_equal")
# Normalised values of the two preparations: 1e-3 are 0.06 of 256 grey levels. OpenCV 5 comes to
# 1e-6, OpenCV 4 to 1e-4.
INPUT_GAP = 1e-3


Case = tuple[str, np.ndarray, tuple[int, int]]
"""(name, image, edges)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/checks/mask2former_parity.json"))
    parser.add_argument("--golden", type=Path, help="write mmdet's outputs on the small network")
    parser.add_argument("--small", action="store_true", help="the small network only: a minute")
    parser.add_argument(
        "--all-published", action="store_true", help="every image at the published size: an hour"
    )
    parser.add_argument("--weights", type=Path, help="a published checkpoint")
    parser.add_argument("--images", type=Path, help="folder of PNGs, searched in depth")
    parser.add_argument("--limit", type=int, default=40, help="at most so many PNGs")
    parser.add_argument("--double", action="store_true", help="both networks in double precision")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    config = official.official_config()
    if arguments.golden:
        write_golden(config, arguments.golden)
        return
    if arguments.weights:
        state = checkpoint.read_checkpoint(arguments.weights)
        cases = [(str(p), read_png(p), PUBLISHED) for p in pngs(arguments.images, arguments.limit)]
        gains = {"published": 1.0}
    elif arguments.small:
        shrink(config)
        state = random_state(config)
        cases = [(f"{h}x{w}", h, w) for h, w in GOLDEN]
        cases = [(n, selftest.image_by_name(n, h, w), GOLDEN_EDGES) for n, h, w in cases]
        gains = SMALL_CLASS_GAINS
    else:
        state = random_state(config, ATTENTION_GAIN)
        cases = random_cases(arguments.all_published, arguments.double)
        gains = CLASS_GAINS
    sizes = selftest.SMALL if arguments.small else detector.swin_s_config()
    report = compare_all(config, sizes, state, gains, cases, arguments)
    print(json.dumps(report["summary"], indent=1))
    sys.exit(0 if report["summary"]["passed"] else 1)


def random_cases(all_published: bool, double: bool) -> list[Case]:
    """The images of every size; of the published one in double precision only where asked for."""
    cases = []
    for edges, sizes in IMAGES.items():
        if double and edges == PUBLISHED and not all_published:
            continue
        edges = PUBLISHED if all_published else edges
        for height, width in sizes:
            name = f"{height}x{width} in {edges[0]}x{edges[1]}"
            cases.append((name, selftest.image_by_name(name, height, width), edges))
    return cases


def compare_all(
    config: Any,
    sizes: dict[str, Any],
    state: dict[str, torch.Tensor],
    gains: dict[str, float],
    cases: list[Case],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    layouts = both_layouts(state)
    report = begun(arguments)
    theirs = official.MMDetDetector(
        official.build_model(config, state), config, "mmdet", arguments.device
    )
    network = detector.build_network(**sizes)
    ours = detector.Mask2FormerDetector(network, "ours", arguments.device)
    shared = share_features(theirs, ours)
    # Each side scales the class head that it loaded itself.
    heads = [theirs.model.panoptic_head.cls_embed, network.class_predictor]
    single = None
    if arguments.double:
        in_double_precision(theirs, ours, shared)
        model = official.build_model(config, state)
        single = official.MMDetDetector(model, config, "mmdet", arguments.device)
        heads.append(model.panoptic_head.cls_embed)
    for place, (name, image, edges) in enumerate(cases):
        shared.clear()
        ours.edges = edges
        set_edges(theirs, edges)
        if single is not None:
            set_edges(single, edges)
        layout = tuple(layouts)[place % 2]
        keys.load_strictly(network, layouts[layout])
        loaded = [(head, head.weight.clone(), head.bias.clone()) for head in heads]
        for case, gain in gains.items():
            row_name = f"{case} {name}"
            if any(row["image"] == row_name for row in report["rows"]):
                continue
            started = time.time()
            for head, weight, bias in loaded:
                head.weight.copy_(weight * gain)
                head.bias.copy_(bias * gain)
            wanted = theirs.detect([image])[0]
            row = compare(wanted, ours.detect([image])[0])
            if single is not None:
                rounded = compare(wanted, single.detect([image])[0])
                row["input"] = shared["input gap"]
                row["official_in_single"] = {k: rounded[k] for k in ROUNDING}
            seconds = round(time.time() - started, 1)
            row = {"image": row_name, "layout": layout, **row, "seconds": seconds}
            print(json.dumps(row), flush=True)
            report["rows"].append(row)
            report["summary"] = summarise(report["rows"], len(cases) * len(gains))
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        for head, weight, bias in loaded:
            head.weight.copy_(weight)
            head.bias.copy_(bias)
    report.setdefault("summary", summarise(report["rows"], len(cases) * len(gains)))
    return report


def both_layouts(state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Weights out of a checkpoint file of mmdet 3 and one of mmdet 2; they must be bit-equal."""
    from mmengine.runner.checkpoint import save_checkpoint

    third = keys.to_mmdet_3(state)
    named = {"mmdet-3": third, "mmdet-2": keys.to_mmdet_2(third)}
    converted = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout, content in named.items():
            path = str(Path(folder) / f"{layout}.pth")
            save_checkpoint({"meta": {"epoch": 50}, "state_dict": content}, path)
            stored = checkpoint.read_checkpoint(Path(path))
            if keys.layout_of(stored) != layout or stored.keys() != content.keys():
                raise SystemExit(f"the checkpoint file of {layout} holds other keys")
            converted[layout] = keys.to_transformers(stored)
    a, b = converted.values()
    if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
        raise SystemExit("the two key layouts convert to different weights")
    return converted


def random_state(config: Any, attention_gain: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights by name for mmdet's model, position indices from the model itself."""
    from mmdet.registry import MODELS

    own = MODELS.build(config.model).state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    filled = selftest.weights_by_name(shapes, attention_gain=attention_gain)
    return {name: filled.get(name, value) for name, value in own.items()}


def share_features(theirs: Any, ours: detector.Mask2FormerDetector) -> dict[str, Any]:
    """Keep what does not depend on the class head until the returned table is cleared."""
    kept: dict[str, Any] = {}

    def once(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name not in kept:
                kept[name] = function(*args, **kwargs)
            return kept[name]

        return call

    model = theirs.model
    model.extract_feat = once("their backbone", model.extract_feat)
    pixel_decoder = model.panoptic_head.pixel_decoder
    pixel_decoder.forward = once("their pixels", pixel_decoder.forward)
    level = ours.network.model.pixel_level_module
    level.forward = once("our pixels", level.forward)
    return kept


def in_double_precision(
    theirs: Any, ours: detector.Mask2FormerDetector, shared: dict[str, Any]
) -> None:
    """Both networks in fp64, on their input: the two preparations differ by fp32 rounding alone."""
    theirs.model.double()
    network: Any = ours.network.double()
    extract, forward = theirs.model.extract_feat, network.forward

    def noting(batch: torch.Tensor) -> Any:
        shared["input"] = batch
        return extract(batch)

    def on_their_input(pixel_values: torch.Tensor) -> Any:
        gap = float((pixel_values - shared["input"]).abs().max())
        if gap > INPUT_GAP:
            raise SystemExit(f"the prepared images differ by {gap:.3g}")
        shared["input gap"] = gap
        return forward(pixel_values=shared["input"])

    theirs.model.extract_feat, network.forward = noting, on_their_input
    # mmdet computes sine positions and reference points in fp32 whatever the network's precision.
    for module in network.modules():
        if type(module).__name__ == "Mask2FormerSinePositionEmbedding":
            module.forward = positions_in_single(module.forward)
    encoder = network.model.pixel_level_module.decoder.encoder
    encoder.get_reference_points = rounded_to_single(encoder.get_reference_points)


def positions_in_single(forward: Any) -> Any:
    def call(shape: Any, device: Any, dtype: torch.dtype, mask: Any = None) -> torch.Tensor:
        return forward(shape, device, torch.float32, mask).to(dtype)

    return call


def rounded_to_single(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        return function(*args, **kwargs).float().double()

    return call


def set_edges(theirs: official.MMDetDetector, edges: tuple[int, int]) -> None:
    for step in theirs.pipeline.transforms:
        if type(step).__name__ == "Resize":
            step.scale = edges


def compare(theirs: list[Detection], ours: list[Detection]) -> dict[str, Any]:
    """Largest differences over one image's objects, in order of score."""
    row: dict[str, Any] = {"objects": len(theirs), "objects_ours": len(ours)}
    row["over_0.3"] = sum(a.score > 0.3 for a in theirs)
    row["over_0.9"] = sum(a.score > 0.9 for a in theirs)
    records = records_for(theirs)
    row["verdicts"] = len(records)
    row["verdicts_correct"] = sum(judge(r, theirs).correct for r in records)
    row["verdicts_equal"] = all(judge(r, theirs) == judge(r, ours) for r in records)
    in_order = ours
    ours = in_order_of(theirs, ours)
    pairs = list(zip(theirs, ours, strict=False))
    row["classes"] = len({a.label for a in theirs})
    row["labels_equal"] = [a.label for a in theirs] == [b.label for b in ours]
    row["reordered_ties"] = sum(a is not b for a, b in zip(in_order, ours, strict=True))
    row["score"] = max((abs(a.score - b.score) for a, b in pairs), default=0.0)
    row["box_px"] = max(
        (abs(x - y) for a, b in pairs for x, y in zip(a.box, b.box, strict=True)), default=0.0
    )
    row["mask_iou"] = min((iou(a.mask, b.mask) for a, b in pairs), default=1.0)
    row["smallest_gap"] = min(
        (a.score - b.score for a, b in zip(theirs[:-1], theirs[1:], strict=True)), default=1.0
    )
    return row


def in_order_of(theirs: list[Detection], ours: list[Detection]) -> list[Detection]:
    """Ours, put into their order inside runs of ties, by label and mask; elsewhere as they are."""
    if len(theirs) != len(ours):
        return ours
    ordered: list[Detection] = []
    start = 0
    for end in range(1, len(theirs) + 1):
        if end < len(theirs) and theirs[end - 1].score - theirs[end].score < TIE:
            continue
        left = ours[start:end]
        for wanted in theirs[start:end]:
            best = max(left, key=lambda d: (d.label == wanted.label, iou(d.mask, wanted.mask)))
            left = [d for d in left if d is not best]
            ordered.append(best)
        start = end
    return ordered


def iou(a: np.ndarray | None, b: np.ndarray | None) -> float:
    assert a is not None and b is not None
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def records_for(detections: list[Detection]) -> list[dict[str, Any]]:
    """Records of four tasks about the classes seen: some come out correct, some not."""
    seen: dict[str, int] = {}
    for found in detections:
        if found.score > 0.3:
            seen[found.label] = seen.get(found.label, 0) + 1
    names = [*list(seen)[:6], "toothbrush", "giraffe"]
    records: list[dict[str, Any]] = []
    for name in names:
        records.append({"tag": "single_object", "include": [{"class": name, "count": 1}]})
        for count in (1, 2, 3):
            clause = {"class": name, "count": count}
            exclude = [{"class": name, "count": count + 1}]
            records.append({"tag": "counting", "include": [clause], "exclude": exclude})
    for a, b in zip(names[:-1], names[1:], strict=True):
        clauses = [{"class": b, "count": 1}, {"class": a, "count": 1}]
        records.append({"tag": "two_object", "include": clauses})
        for relation in ("left of", "right of", "above", "below"):
            placed = [clauses[0], {**clauses[1], "position": [relation, 0]}]
            records.append({"tag": "position", "include": placed})
    return records


def summarise(rows: list[dict[str, Any]], wanted: int) -> dict[str, Any]:
    worst = {
        "box_px": max(row["box_px"] for row in rows),
        "score": max(row["score"] for row in rows),
        "mask_iou": min(row["mask_iou"] for row in rows),
    }
    passed = (
        all(row["labels_equal"] and row["verdicts_equal"] for row in rows)
        and worst["box_px"] <= LIMITS["box_px"]
        and worst["score"] <= LIMITS["score"]
        and worst["mask_iou"] > LIMITS["mask_iou"]
    )
    rounded = [row["official_in_single"] for row in rows if "official_in_single" in row]
    rounding = {
        "box_px": max((r["box_px"] for r in rounded), default=None),
        "score": max((r["score"] for r in rounded), default=None),
        "mask_iou": min((r["mask_iou"] for r in rounded), default=None),
        "rows_with_other_labels_or_order": sum(not r["labels_equal"] for r in rounded),
        "rows_with_other_verdicts": sum(not r["verdicts_equal"] for r in rounded),
    }
    return {
        "complete": len(rows) == wanted,
        "passed": passed and len(rows) == wanted,
        "images_compared": len(rows),
        "of": wanted,
        "objects": sum(row["objects"] for row in rows),
        "over_0.3": sum(row["over_0.3"] for row in rows),
        "over_0.9": sum(row["over_0.9"] for row in rows),
        "labels_and_order_equal": all(row["labels_equal"] for row in rows),
        "reordered_ties": sum(row["reordered_ties"] for row in rows),
        "tie": TIE,
        "verdicts": sum(row["verdicts"] for row in rows),
        "verdicts_correct": sum(row["verdicts_correct"] for row in rows),
        "verdicts_equal": all(row["verdicts_equal"] for row in rows),
        "worst": worst,
        "limits": LIMITS,
        "official_in_single_against_itself_in_double": rounding if rounded else "not measured",
        "key_layouts": "files of mmdet-2 and mmdet-3 convert to bit-equal weights; every key used",
    }


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    import importlib.metadata

    names = ("mmcv", "mmengine", "opencv-python-headless")
    return {
        "command": command_line(),
        "weights": arguments.weights.name if arguments.weights else "random, by name",
        "device": arguments.device,
        "precision": "double" if arguments.double else "single",
        "threads": torch.get_num_threads(),
        "mmcv_operators": compiled_operators(),
        **provenance(),
        "official": {name: importlib.metadata.version(name) for name in names},
    }


def compiled_operators() -> str:
    """Whether mmcv's compiled extension is there; on the CPU this network calls none of it."""
    from mmcv import _ext

    return "stand-in" if str(_ext.__file__).endswith(".py") else "compiled"


def begun(arguments: argparse.Namespace) -> dict[str, Any]:
    """The stored report, if it was made by this very code on this machine; else an empty one."""
    now = facts(arguments)
    if arguments.out.is_file():
        stored = json.loads(arguments.out.read_text())
        if stored["facts"] == now:
            return stored
    return {"rows": [], "facts": now}


def pngs(folder: Path | None, limit: int) -> list[Path]:
    found = sorted(p for p in folder.rglob("*.png") if p.name[0] != ".") if folder else []
    if not found:
        raise SystemExit(
            "--weights needs --images: a folder with PNG pictures, for example a run's"
        )
    return found[:: max(1, len(found) // limit)][:limit]


def read_png(path: Path) -> np.ndarray:
    from selfe.images import decode_image

    return np.array(decode_image(path.read_bytes()))


def shrink(config: Any) -> None:
    """mmdet's configuration of the published model with the sizes of `SMALL`."""
    small = selftest.SMALL
    width, heads = small["feature_size"], small["attention_heads"]
    config.model.backbone.update(
        embed_dims=small["embed_dim"],
        depths=list(small["depths"]),
        num_heads=list(small["num_heads"]),
        window_size=small["window_size"],
    )
    head = config.model.panoptic_head
    head.in_channels = [small["embed_dim"] * 2**i for i in range(4)]
    head.feat_channels = head.out_channels = width
    head.num_queries = small["num_queries"]
    head.positional_encoding.num_feats = width // 2
    pixel, decoder = head.pixel_decoder, head.transformer_decoder
    pixel.positional_encoding.num_feats = width // 2
    pixel.encoder.num_layers = small["pixel_layers"]
    layer = pixel.encoder.layer_cfg
    layer.self_attn_cfg.update(embed_dims=width, num_heads=heads)
    layer.ffn_cfg.update(embed_dims=width, feedforward_channels=small["pixel_feedforward"])
    decoder.num_layers = small["decoder_layers"]
    layer = decoder.layer_cfg
    layer.self_attn_cfg.update(embed_dims=width, num_heads=heads)
    layer.cross_attn_cfg.update(embed_dims=width, num_heads=heads)
    layer.ffn_cfg.update(embed_dims=width, feedforward_channels=small["decoder_feedforward"])


def write_golden(config: Any, path: Path) -> None:
    """mmdet's answers on the small network, with the names and shapes of its weights."""
    shrink(config)
    state = random_state(config)
    arrays: dict[str, np.ndarray] = {}
    for case, gain in SMALL_CLASS_GAINS.items():
        changed = {k: v * gain if ".cls_embed." in k else v for k, v in state.items()}
        detector = official.MMDetDetector(official.build_model(config, changed), config, "mmdet")
        for step in detector.pipeline.transforms:
            if type(step).__name__ == "Resize":
                step.scale = GOLDEN_EDGES
        for height, width in GOLDEN:
            name = f"{height}x{width}"
            found = detector.detect([selftest.image_by_name(name, height, width)])[0]
            masks = np.stack([d.mask for d in found if d.mask is not None])
            key = f"{case}/{name}"
            arrays[f"{key}/labels"] = np.array([d.label for d in found])
            arrays[f"{key}/scores"] = np.array([d.score for d in found], np.float32)
            arrays[f"{key}/boxes"] = np.array([d.box for d in found], np.float32)
            arrays[f"{key}/masks"] = np.packbits(masks.reshape(len(found), -1), axis=1)
            over = sum(d.score > 0.3 for d in found), sum(d.score > 0.9 for d in found)
            share = masks.mean(axis=(1, 2))
            print(
                f"{key}: {len(found)} objects, over 0.3 and 0.9: {over}, mask share "
                f"{share.min():.3f} to {share.max():.3f}, scores {found[0].score:.3f} to "
                f"{found[-1].score:.3f}"
            )
    shapes = {k: list(v.shape) for k, v in state.items() if "position_index" not in k}
    arrays["shapes"] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

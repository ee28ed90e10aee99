"""Packs finished runs of the shapes world as the models of `selfe-bench demo`.

    python -m scripts.weights.demo_models shapes-quick-selfe shapes-quick-fm shapes-quick-imm

Writes selfe/assets/demo_METHOD.safetensors and their manifest selfe/assets/demo.json. The order of
the names is that of the columns on the page; earlier models of the demo are replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selfe.files import write_atomically
from selfe.run_folder.packed_weights import pack_run, read_manifest
from selfe.run_folder.records import read_config, require_run

ASSETS = Path(__file__).resolve().parent.parent.parent / "selfe" / "assets"
MOST_BYTES = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="RUN or RUN@STEP")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    found = [require_run(name, arguments.runs_dir) for name in arguments.runs]
    for folder, _ in found:
        if read_config(folder).data.source != "shapes":
            raise ValueError(f"{folder} is not of the shapes world, which the demo judges")
    manifest = arguments.out / "demo.json"
    earlier = {model.file for model in read_manifest(manifest)}
    models = []
    for folder, step in found:
        config = read_config(folder)
        name = "_".join(part for part in ("demo", config.method, config.variant) if part)
        path = arguments.out / f"{name}.safetensors"
        models.append(pack_run(folder, path, step))
        print(f"{path.name}: {path.stat().st_size:,} bytes, iteration {models[-1].iteration}")
    for name in earlier - {model.file for model in models}:
        (arguments.out / name).unlink(missing_ok=True)
    total = sum((arguments.out / model.file).stat().st_size for model in models)
    if total > MOST_BYTES:
        raise ValueError(f"{total:,} bytes: a package should not carry more than {MOST_BYTES:,}")
    rows = [model.model_dump(mode="json") for model in models]
    write_atomically(manifest, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

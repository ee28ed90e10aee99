#!/usr/bin/env bash
# Installs the official detector, mmdet 3.3 with mmcv 2.1, into the project's .venv.
# mmcv has to be compiled against the torch that is there: 77 files, from 8 minutes on 2 fast cores
# to three quarters of an hour of processor time on slow ones. A second run has nothing to do.
#
#   scripts/install_mmdet.sh           with CUDA kernels for the GPUs present, else for the CPU
#   scripts/install_mmdet.sh --cpu     for the CPU, even where there is a GPU
#   scripts/install_mmdet.sh --force   again, although it is installed
#
# MAX_JOBS limits the compilers run at once (each takes up to 2 GB); default: one per core.
set -euo pipefail
cd "$(dirname "$0")/.."
MMCV=2.1.0 MMDET=3.3.0 MMENGINE=0.10.7
cpu=0 force=0
for argument in "$@"; do
    case "$argument" in
    --cpu) cpu=1 ;;
    --force) force=1 ;;
    *)
        echo "unknown argument $argument (known: --cpu, --force)" >&2
        exit 2
        ;;
    esac
done

if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c "import torch" 2>/dev/null; then
    . scripts/environment.sh
    selfe_environment dev,webdataset,tensorboard
fi
python="$PWD/.venv/bin/python"

# What to build for: "cpu", or the compute capabilities of the GPUs, as in "8.0;9.0".
target="$("$python" - "$cpu" <<'PYTHON'
import sys
import torch
if sys.argv[1] == "1" or not torch.cuda.is_available():
    print("cpu")
else:
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    print(";".join(f"{a}.{b}" for a, b in sorted(found)))
PYTHON
)"

works() {
    "$python" - "$target" <<'PYTHON'
import sys
from importlib.metadata import version
from evals.detectors.mmdet import check_deformable_attention, official_config
official_config()
wrong = check_deformable_attention("cpu" if sys.argv[1] == "cpu" else "cuda")
if wrong:
    sys.exit(f"mmcv does not work: {wrong}")
print(f"mmdet {version('mmdet')}, mmcv {version('mmcv')}: working for {sys.argv[1]}")
PYTHON
}
if [ "$force" = 0 ] && works 2>/dev/null; then
    echo "nothing to do"
    exit 0
fi

build=(MMCV_WITH_OPS=1 "MAX_JOBS=${MAX_JOBS:-$(nproc)}")
wrappers="$(mktemp -d)"
trap 'rm -rf "$wrappers"' EXIT
wrap() { # mmcv asks for C++17, current torch needs C++20
    printf '#!/usr/bin/env bash\nexec %q "${@/-std=c++17/-std=c++20}"\n' "$2" >"$wrappers/$1"
    chmod +x "$wrappers/$1"
}
wrap cxx "$(command -v "${CXX:-c++}" || true)"
[ -n "$(command -v "${CXX:-c++}")" ] || {
    echo "no C++ compiler: install one (Debian: apt-get install g++), or use the detector mask2former" >&2
    exit 1
}
if [ "$target" = cpu ]; then
    build+=(FORCE_CUDA=0 "CXX=$wrappers/cxx")
else
    nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
    [ -x "$nvcc" ] || nvcc="$(command -v nvcc || true)"
    if [ -z "$nvcc" ]; then
        version="$("$python" -c 'import torch; print(torch.version.cuda)')"
        echo "there is a GPU but no nvcc: install the CUDA $version toolkit and set CUDA_HOME," \
            "or build for the CPU with --cpu, or use the detector mask2former" >&2
        exit 1
    fi
    wrap nvcc "$nvcc"
    build+=(FORCE_CUDA=1 "CXX=$wrappers/cxx" "PYTORCH_NVCC=$wrappers/nvcc"
        "CUDA_HOME=$(dirname "$(dirname "$nvcc")")" "TORCH_CUDA_ARCH_LIST=$target")
fi

echo "== tools and dependencies"
"$python" -m pip install --progress-bar on "setuptools<81" wheel ninja
"$python" -m pip install --progress-bar on opencv-python-headless addict yapf platformdirs \
    termcolor pyyaml regex rich terminaltables shapely pycocotools six scipy matplotlib tqdm
# The headless OpenCV above serves in place of the one mmengine asks for, which needs a desktop.
"$python" -m pip install --progress-bar on --no-deps "mmengine==$MMENGINE" "mmdet==$MMDET"

log="$PWD/.venv/mmcv-build.log"
echo "== compiling mmcv $MMCV for $target (log: $log)"
set +e
env "${build[@]}" "$python" -m pip install -v --no-build-isolation --no-deps --no-binary mmcv \
    --force-reinstall --no-cache-dir "mmcv==$MMCV" 2>&1 | tee "$log" |
    grep --line-buffered -oE '^ *\[[0-9]+/[0-9]+\]' | while read -r step; do
    printf '\rcompiled %s ' "$step"
done
status="${PIPESTATUS[0]}"
set -e
echo
if [ "$status" != 0 ]; then
    tail -n 30 "$log" >&2
    echo "mmcv did not compile; the whole log is $log" >&2
    exit 1
fi
echo "== test"
works

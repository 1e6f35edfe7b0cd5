#!/usr/bin/env bash
# Known vulnerabilities of the pinned packages by pip-audit, in an environment of its own. Where it cannot run, or its
# list does not know a package, it says "not run" with the number; a vulnerability that it finds fails.
set -u
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if ! "$folder/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit; then
    echo "audit: not run, pip-audit could not be installed"
    exit 0
fi
"$folder/venv/bin/pip-audit" --no-deps --disable-pip --timeout 15 -r constraints.txt >"$folder/out" 2>"$folder/err"
code=$?
if [ $code -ne 0 ] && ! grep -qi "known vulnerabilit" "$folder/err" &&
    grep -qiE "connection|timed out|resolve|unreachable|503|404|proxy" "$folder/err"; then
    echo "audit: not run, the list of vulnerabilities could not be reached"
    exit 0
fi
total=$(grep -c "^[^#]*==" constraints.txt)
unknown=$(grep -c "could not be audited" "$folder/out")
if [ "$unknown" -gt 0 ]; then
    echo "audit: not run for $unknown of $total packages, which the list that was reached does not know; of the other $((total - unknown)):"
    grep -v "could not be audited" "$folder/out"
else
    echo "audit: run for all $total packages:"
    cat "$folder/out"
fi
cat "$folder/err"
exit $code

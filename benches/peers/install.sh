#!/bin/sh
# Installs the packages given from the system's own, without starting the services they bring: policy-rc.d denies it
# meanwhile, and is put back as it was however this ends. What was not there before does not start at boot either.
set -eu
policy=/usr/sbin/policy-rc.d
kept=
restore() {
    rm -f "$policy"
    if [ -n "$kept" ]; then mv "$kept" "$policy"; fi
}
trap restore EXIT
trap 'exit 1' INT TERM HUP
if [ -e "$policy" ]; then
    kept=$policy.before-bench.$$
    mv "$policy" "$kept"
fi
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
failed=0
for package in "$@"; do
    apt-get install -y -q --no-install-recommends "$package" || {
        apt-get update -q && apt-get install -y -q --no-install-recommends "$package"
    } || failed=1
    if command -v systemctl >/dev/null 2>&1; then
        systemctl disable "$package" >/dev/null 2>&1 || true
    fi
done
exit "$failed"

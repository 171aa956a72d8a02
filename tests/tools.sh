#!/usr/bin/env bash
# Installs what tests need on Debian: PostgreSQL and HAProxy for tests against real servers, a compiler. The test bed installs its own.
set -euo pipefail
need=()
for package in gcc make postgresql-15 postgresql-client haproxy pgbouncer util-linux; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || need+=("$package")
done
[ ${#need[@]} -eq 0 ] && exit 0
echo "installing ${need[*]}"
[ "$(id -u)" -eq 0 ] || { echo "run as root, or install by hand: apt-get install ${need[*]}" >&2; exit 1; }
# The servers of the packages are not wanted, only their programs.
export DEBIAN_FRONTEND=noninteractive
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null

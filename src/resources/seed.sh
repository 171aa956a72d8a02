# Clones the upstream into DATA. Arguments: DATA CONNINFO SLOT [FURTHER FLAGS OF pg_basebackup].
set -eu
data=$1 conninfo=$2 slot=$3
shift 3
if [ -d "$data" ]; then
  echo "$data is complete already"
  exit 0
fi
rm -rf "$data.partial"
umask 077
printf '*:*:*:*:%s\n' "$(sed -e 's/[\\:]/\\&/g' /etc/mitosis/source/password)" > /tmp/pgpass
echo 'base backup begins'
PGPASSFILE=/tmp/pgpass pg_basebackup --pgdata="$data.partial" --dbname="$conninfo" --slot="$slot" \
  --wal-method=stream --checkpoint=fast --no-password "$@"
echo 'base backup is complete'
# By the checksums of its manifest, before anything else is written there: what was damaged on its way never becomes a member.
if command -v pg_waldump > /dev/null; then
  pg_verifybackup --quiet "$data.partial"
else
  pg_verifybackup --quiet --no-parse-wal "$data.partial"
fi
echo 'base backup is verified'
# Settings of the source's ALTER SYSTEM travel with a clone; the operator points the standby at its upstream once it runs.
: > "$data.partial/postgresql.auto.conf"
: > "$data.partial/standby.signal"
sync
mv "$data.partial" "$data"

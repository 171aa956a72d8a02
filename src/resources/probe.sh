# Says which PostgreSQL the image holds, and what of a source's inventory it lacks. Arguments: ANSWER (a file) INVENTORY (JSON) PARAMETERS (JSON) SQL.
set -eu
answer=$1 inventory=$2 parameters=$3 sql=$4
missing=
for program in postgres pg_basebackup pg_ctl pg_isready pg_verifybackup initdb psql flock; do
  command -v $program > /dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
  echo "not on PATH:$missing" > "$answer"
  exit 1
fi
work=$(mktemp -d)
failed() {
  tail -c 1000 "$work/log" > "$answer"
  exit 1
}
# A small server of the image's own, which listens on a socket only.
initdb --pgdata="$work/data" --username=probe --auth=trust --encoding=UTF8 --locale=C --no-sync > "$work/log" 2>&1 || failed
pg_ctl --pgdata="$work/data" --log="$work/log" --wait --silent --options="-c listen_addresses='' -c unix_socket_directories='$work' \
  -c shared_buffers=4MB -c max_connections=5 -c max_wal_senders=0 -c autovacuum=off -c fsync=off" start > /dev/null 2>&1 || failed
ask() {
  psql --host="$work" --username=probe --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@" 2>> "$work/log"
}
# Locales of the C library may have any encoding, which one of this kind allows; ICU needs one that it knows.
ask --dbname=postgres --command="CREATE DATABASE any_encoding ENCODING 'SQL_ASCII' TEMPLATE template0" || failed
printf '%s' "$sql" > "$work/probe.sql"
for database in any_encoding postgres; do
  ask --dbname=$database --set=inventory="$inventory" --set=parameters="$parameters" --file="$work/probe.sql" >> "$work/found" || failed
done
pg_ctl --pgdata="$work/data" --silent --mode=immediate stop > /dev/null 2>&1 || true
cat "$work/found" > "$answer"
rm -rf "$work"

# Rewinds the standby in DATA with pg_rewind and starts it again. Arguments: DATA PROGRAMS CONNINFO TIMELINE.
# Between its first change and its last one pg_rewind leaves a directory that would start, as a primary. So the data lies beside its place
# meanwhile, where nothing starts it; and what is this server's own lies beside that, since pg_rewind makes the directory the same as the
# other server's. Slots are its own, too: its standbys need them.
data=$1
programs=$2
conninfo=$3
timeline=$4
aside=$data.mitosis-rewind
own=$data.mitosis-own
log=$data.mitosis-rewind.log
cd "${data%/*}" || exit 1
# Whoever makes it is the only one at work.
mkdir "$own" || exit 1
export PGPASSFILE="$data.mitosis-password"
trap 'rm -f "$PGPASSFILE"' EXIT
exec 3>&2 >"$log" 2>&1
date
rewind() {
  "$programs/pg_rewind" --target-pgdata="$aside" --source-server="$conninfo" "$@"
}
# With the options that it had, which are in its data, and with its own log.
start() {
  rm -f "$PGPASSFILE"
  exec "$programs/pg_ctl" -D "$data" -W restart >&3 2>&3 3>&-
}
# Only while pg_rewind has changed nothing.
start_as_it_was() {
  echo "$1: started again as it was"
  take_own "$aside" && rmdir "$own" && [ ! -e "$data" ] && mv "$aside" "$data" && start
  exit 1
}
# Moves what is this server's own into a directory.
take_own() {
  for entry in "$own"/* "$own"/.[!.]*; do
    if [ -e "$entry" ] || [ -L "$entry" ]; then
      rm -rf "${1:?}/${entry##*/}" && mv "$entry" "$1/" || return 1
    fi
  done
}
"$programs/pg_ctl" -D "$data" -m fast -t 600 -w stop || exit 1
# Somebody may have promoted it since it was looked at.
if ! { [ -e "$data/standby.signal" ] && LC_ALL=C "$programs/pg_controldata" "$data" | grep -q 'shut down in recovery'; }; then
  echo "it was no standby any more: started again as it was"
  rmdir "$own"
  start
fi
if ! mv "$data" "$aside"; then
  rmdir "$own"
  start
fi
if ! rewind --dry-run; then
  # Histories of later timelines came from the primary; with one of them it would not start where it was.
  for history in "$aside"/pg_wal/*.history; do
    number=${history##*/}
    if [ -e "$history" ] && [ $((0x${number%.history})) -gt "$timeline" ]; then rm -f "$history"; fi
  done
  start_as_it_was "pg_rewind refused"
fi
for entry in "$aside"/* "$aside"/.[!.]*; do
  case ${entry##*/} in
    base | global | pg_commit_ts | pg_dynshmem | pg_logical | pg_multixact | pg_notify | pg_serial | pg_snapshots) ;;
    pg_stat | pg_stat_tmp | pg_subtrans | pg_tblspc | pg_twophase | pg_wal | pg_xact | PG_VERSION) ;;
    backup_label | backup_manifest | tablespace_map) ;;
    *) if [ -e "$entry" ] || [ -L "$entry" ]; then mv "$entry" "$own/" || start_as_it_was "$entry cannot be moved"; fi ;;
  esac
done
# After a loss of power the data must not be back in its place with some of pg_rewind's changes.
sync
if ! rewind; then
  echo "not started again: $aside is neither what it was nor what it should be, what is its own is in $own; clone it anew"
  exit 1
fi
take_own "$aside" && rmdir "$own" && sync && [ ! -e "$data" ] && mv "$aside" "$data" && start

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
PGPASSWORD=$(cat "$data.mitosis-password")
rm -f "$data.mitosis-password"
export PGPASSWORD
date >"$log"
rewind() {
  "$programs/pg_rewind" --target-pgdata="$aside" --source-server="$conninfo" "$@" >>"$log" 2>&1
}
# With the options that it had, which are in its data.
start() {
  unset PGPASSWORD
  exec "$programs/pg_ctl" -D "$data" -W restart
}
"$programs/pg_ctl" -D "$data" -m fast -t 600 -w stop >>"$log" 2>&1 || exit 1
mv "$data" "$aside" 2>>"$log" || start
# Changes nothing, and fails for everything that can be known before.
if ! rewind --dry-run; then
  # Histories of later timelines came from the primary; with one of them it would not start where it was.
  for history in "$aside"/pg_wal/*.history; do
    number=${history##*/}
    if [ -e "$history" ] && [ $((0x${number%.history})) -gt "$timeline" ]; then rm -f "$history"; fi
  done
  mv "$aside" "$data"
  start
fi
mkdir "$own" && cd "$aside" || exit 1
for entry in * .[!.]*; do
  case $entry in
    base | global | pg_commit_ts | pg_dynshmem | pg_logical | pg_multixact | pg_notify | pg_serial | pg_snapshots) ;;
    pg_stat | pg_stat_tmp | pg_subtrans | pg_tblspc | pg_twophase | pg_wal | pg_xact | PG_VERSION) ;;
    backup_label | backup_manifest | tablespace_map) ;;
    *) if [ -e "$entry" ] || [ -L "$entry" ]; then mv "$entry" "$own/" || exit 1; fi ;;
  esac
done
if ! rewind; then
  echo "not started again: $aside is neither what it was nor what it should be, what is its own is in $own; clone it anew" >>"$log"
  exit 1
fi
cd "$own" || exit 1
for entry in * .[!.]*; do
  if [ -e "$entry" ] || [ -L "$entry" ]; then
    rm -rf "${aside:?}/$entry" && mv "$entry" "$aside/" || exit 1
  fi
done
cd "${data%/*}" && rmdir "$own" && sync && mv "$aside" "$data" && start

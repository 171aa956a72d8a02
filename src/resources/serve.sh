# Runs the server of DATA. Arguments: DATA CONFIGURATION-FILE.
# A clean shutdown that the container was not asked for is a switchover's: the server starts again, as the standby that it was armed to be.
# A crash ends the container, which the kubelet starts again.
data=$1
# Where a pod was deleted by force, its container may still run beside the new one. The server holds the lock too, and outlives this shell.
exec 9>>"$data.lock"
if ! flock -n 9; then
  echo "another container still runs on this volume; waiting for its end" >&2
  # Ends by a signal, too: this shell is the container's first process and waits for it.
  flock 9 &
  lock=$!
  trap 'kill "$lock"' TERM INT
  wait "$lock" || exit 1
fi
# Left by a crash: nothing else uses the volume now, and in a new container the process id in it may be anybody's.
rm -f "$data/postmaster.pid"
ending=
# SIGTERM to the server would wait for every session to end.
trap 'ending=yes; kill -INT "$server"' TERM INT
while [ -z "$ending" ]; do
  postgres -D "$data" -c config_file="$2" &
  server=$!
  wait "$server"
  status=$?
  # A signal ends the first wait before the server has ended.
  while kill -0 "$server" 2>/dev/null; do
    wait "$server"
    status=$?
  done
  if [ -n "$ending" ] || [ "$status" -ne 0 ]; then
    exit "$status"
  fi
  # Clients come to the new primary at this moment: they go first.
  sleep 0.5 || sleep 1
done

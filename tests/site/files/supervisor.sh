#!/bin/bash
# PID 1 of a machine: starts the server when told to, reaps whatever ends, and starts the server again if the policy says so.
# usage: supervisor MAJOR     commands, one per line, through /run/mitosis/control: start | stop (= do not start it again)
# A server that was started by something else in the machine (pg_ctl restart from SQL) is adopted and left alone.
# Bash, because it reaps unknown children on SIGCHLD and `read -t` waits without starting a process.
major=$1
data=/var/lib/postgresql/$major/main
configuration=/etc/postgresql/$major/main/postgresql.conf
log=/var/log/postgresql/supervisor.log
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
trap '' TERM INT HUP

launch() {
  setpriv --reuid=postgres --regid=postgres --init-groups --reset-env \
    "/usr/lib/postgresql/$major/bin/postgres" -D "$data" -c "config_file=$configuration" </dev/null >>"$log" 2>&1 3>&- &
  server=$!
}

alive() {
  local pid name
  [ -n "$server" ] && kill -0 "$server" 2>/dev/null && return 0
  server=
  # The lock file may be that of a server that was killed, so its process is looked at as well.
  { read -r pid <"$data/postmaster.pid"; } 2>/dev/null || return 1
  { read -r name <"/proc/$pid/comm"; } 2>/dev/null && [ "$name" = postgres ]
}

# Renamed once it is open: whoever sees the pipe can write to it.
mkfifo -m 600 /run/mitosis/control.new
exec 3<>/run/mitosis/control.new
mv /run/mitosis/control.new /run/mitosis/control
wanted=no
begun=
while :; do
  command=
  # The time may be over in the middle of a line; its rest then comes with the next turn.
  if read -r -t 0.2 -u 3 part; then
    command=$begun$part
    begun=
  else
    begun=$begun$part
  fi
  case $command in
    start) wanted=yes; alive || launch ;;
    stop) wanted=no ;;
  esac
  if [ "$wanted" = yes ] && ! alive; then
    read -r policy </etc/mitosis/restart
    [ "$policy" = yes ] && launch
  fi
done

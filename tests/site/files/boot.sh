#!/bin/bash
# First program of a machine, in fresh mount, pid, uts and ipc namespaces: builds the root file system and becomes the supervisor.
# usage: boot.sh RECORD LOWER UPPER WORK ROOT MAJOR NAME
set -eu
record=$1 lower=$2 upper=$3 work=$4 root=$5 major=$6 name=$7

# /proc is still the host's here, so this is the process id and the start time as the host sees them.
read -r -a stat </proc/self/stat
echo "${stat[0]} ${stat[21]}" >"$record.new"
mv "$record.new" "$record"

hostname "$name"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mkdir -p "$root/run/mitosis" "$root/run/postgresql"
chroot "$root" chown postgres:postgres /run/postgresql

# Copies of the host's other mounts would keep them busy as long as the machine lives.
others=()
while read -r _ _ _ _ mounted _; do
  case $mounted in
    / | /proc | /proc/* | /dev | /dev/* | /sys | /sys/* | "$root" | "$root"/*) ;;
    *) case $root in "$mounted"/*) ;; *) others+=("$mounted") ;; esac ;;
  esac
done </proc/self/mountinfo
[ ${#others[@]} = 0 ] || umount --lazy "${others[@]}" 2>/dev/null || true

cd "$root"
exec chroot . /bin/bash /usr/local/lib/mitosis/supervisor "$major"

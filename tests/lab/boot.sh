#!/bin/bash
# Boots one lab host: joins its control group, enters its network namespace, makes the others, builds its root from
# an overlay over this machine, and stays as its init. Started by netns.py, which sets the LAB_* variables.
# "ready" on descriptor 3 says that the host stands; a kill of the first process is a power cut.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
  for door in $LAB_DOORS; do echo $$ >"$door"; done
  # The cgroup namespace is made after the join: its root is the host's own group.
  exec nsenter "--net=$LAB_NETNS" unshare --uts --mount --pid --ipc --cgroup --fork --kill-child \
    -- "$BASH" "$0" inside
fi

mount --make-rprivate /
root=$LAB_DISK/root
mkdir -p "$LAB_DISK"/{upper,work,root,docker}
mount -t overlay "$LAB_NAME" -o "lowerdir=/,upperdir=$LAB_DISK/upper,workdir=$LAB_DISK/work" "$root"

mount -t proc proc "$root/proc"
# Kernel settings are the machine's, but for the network's; and nobody in a lab reboots the machine.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
if [[ -e $root/proc/sysrq-trigger ]]; then
  mount --bind "$root/proc/sysrq-trigger" "$root/proc/sysrq-trigger"
  mount -o remount,bind,ro "$root/proc/sysrq-trigger"
fi

mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64k cgroups "$root/sys/fs/cgroup"
for word in $LAB_CGROUPS; do
  IFS=: read -r name kind options <<<"$word"
  mkdir -p "$root/sys/fs/cgroup/$name"
  mount -t "$kind" -o "$options" cgroup "$root/sys/fs/cgroup/$name"
done

# A /dev of its own: a bug in an agent under test can't reach the machine's disks.
mount -t tmpfs -o mode=755,size=1m dev "$root/dev"
while read -r name mode major minor; do
  mknod -m "$mode" "$root/dev/$name" c "$major" "$minor"
done <<<"null 666 1 3
zero 666 1 5
full 666 1 7
random 666 1 8
urandom 666 1 9
kmsg 444 1 11
tty 666 5 0
fuse 666 10 229"
mkdir "$root"/dev/{pts,shm,mqueue}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done

mount -t tmpfs -o mode=755,size=128m run "$root/run"
mkdir -p "$root/run/lock"
mount -t tmpfs -o mode=1777,size=256m tmp "$root/tmp"
mkdir -p "$root/var/lib/docker"
mount --bind "$LAB_DISK/docker" "$root/var/lib/docker"  # overlay2 can't stand on an overlay
for folder in $LAB_READ_ONLY; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
  mount -o remount,bind,ro "$root$folder"
done

hostname "$LAB_NAME"
echo "$LAB_NAME" >"$root/etc/hostname"
printf '127.0.0.1 localhost\n%s' "$LAB_HOSTS" >"$root/etc/hosts"
[[ -s $LAB_DISK/machine-id ]] || tr -d - </proc/sys/kernel/random/uuid >"$LAB_DISK/machine-id"
cp --remove-destination "$LAB_DISK/machine-id" "$root/etc/machine-id"

cd "$root"
mkdir -p .machine
pivot_root . .machine
umount -l /.machine
rmdir /.machine
cd /
echo ready >&3
exec 3>&-
# An init is two lines: bash reaps whatever is left to it.
exec -a init /bin/bash -c 'trap "exit 0" TERM; while :; do sleep infinity & wait $!; done' </dev/null

#!/bin/bash
# A service manager on a lab host: systemd as the first process of namespaces below the host's own. Started by
# services.py, which sets the LAB_* variables and whose folder of units is all that /etc has of them.
# Every file system it could remount is made here for it: the machine's own are out of its reach.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
  exec unshare --pid --mount --cgroup --fork --kill-child -- "$BASH" "$0" inside
fi

mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
if [[ -e /proc/sysrq-trigger ]]; then
  mount --bind /proc/sysrq-trigger /proc/sysrq-trigger
  mount -o remount,bind,ro /proc/sysrq-trigger
fi

# Version 2 alone, from this process's own group downwards, as on most real hosts.
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755,size=128m run /run

for pair in $LAB_BINDS; do
  mkdir -p "${pair#*:}"
  mount --bind "${pair%%:*}" "${pair#*:}"
done
# What the machine has enabled stays out.
mount -t tmpfs -o mode=755,size=64k none /etc/init.d
mount --bind /dev/null /etc/fstab

exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin "$LAB_SYSTEMD" --log-target=journal

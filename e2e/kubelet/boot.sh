#!/usr/bin/env bash
# A node of the lab boots: what is process 1 of a machine of its own. It has the network namespace that it is started in, and
# mounts, processes, host name and control groups of its own; all ends with it. Its disk is DIRECTORY: /var/lib and /var/log
# of the node outlive it, /run does not. What is below /usr and /etc is the machine's that the lab runs on.
# Usage: boot.sh DIRECTORY CGROUP NAME      says "booted" when others may start programs in it with nsenter(1)
#
#   CGROUP  the name of the control groups to be made, one in each hierarchy
set -euo pipefail

groups=/sys/fs/cgroup
if [[ ${1:-} != --inside ]]; then
  directory=$1 group=$2 name=$3
  mkdir -p "$directory"/var/{lib,log} "$directory/sysctl"
  if [[ -e $groups/cgroup.controllers ]]; then
    echo "boot.sh: this machine has control groups of version 2; a node of the lab is made of those of version 1" >&2
    exit 1
  fi
  for hierarchy in "$groups"/*/; do
    [[ -e $hierarchy/cgroup.procs ]] || continue
    mkdir -p "$hierarchy$group"
    for setting in cpuset.cpus cpuset.mems; do
      [[ ! -e $hierarchy$setting ]] || cat "$hierarchy$setting" >"$hierarchy$group/$setting"
    done
    echo $$ >"$hierarchy$group/cgroup.procs"
  done
  exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child=KILL "$0" --inside "$directory" "$name"
fi

directory=$2 name=$3
hostname "$name"
mount -t proc proc /proc
hierarchies=$(sed -n 's/^[0-9]*:\([^:]\+\):.*/\1/p' /proc/self/cgroup)
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs "$groups"
for hierarchy in $hierarchies; do
  mkdir "$groups/${hierarchy#name=}"
  mount -t cgroup -o "$([[ $hierarchy == name=* ]] && echo none,)$hierarchy" cgroup "$groups/${hierarchy#name=}"
done
# A name of another node's network, mounted here as well, would keep that network when its node loses its power.
! mountpoint --quiet /run/netns || umount --recursive --lazy /run/netns
mount --bind "$directory/var/lib" /var/lib
mount --bind "$directory/var/log" /var/log
# A kubelet sets what concerns the whole machine; that one is not the node's.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  cat "/proc/sys/$setting" >"$directory/sysctl/${setting//\//.}"
  mount --bind "$directory/sysctl/${setting//\//.}" "/proc/sys/$setting"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-rshared /
echo booted
# Whose parents have ended are this process's children now, and are waited for.
sleep infinity &
wait

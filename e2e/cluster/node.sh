#!/bin/sh
# What a node is before anything runs on it: run with network, mount and UTS namespaces of its own, it sets up the
# mounts and stays, for the namespaces live as long as it does. Usage: node.sh NAME HOME
set -eu
name=$1 home=$2
hostname "$name"
# First the mounts, then sharing: a bind mount made of a shared one would show a pod's mounts twice.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
mount --bind "$home/var-lib" /var/lib
mount --bind "$home/var-log" /var/log
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount --make-rshared /
ip link set lo up
sysctl -q -w net.ipv4.ip_forward=1
echo done >"$home/mounted"
exec sleep infinity

#!/bin/sh
# First process of the virtual machine: this machine's files, read-only and with a scratch layer over them, then the
# command that the host left in the share "job". Its output and exit code go to the serial port.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1

end() {
    echo "kernel-test-exit: $1"
    $bb sleep 1 # the serial port has a buffer
    echo b >/proc/sysrq-trigger # qemu -no-reboot ends here
    $bb sleep 60
}

for module in $($bb cat /modules/order); do
    $bb insmod "/modules/$module" || end "cannot load $module"
done
nine="trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro"
$bb mount -t 9p -o "$nine" root /lower || end "cannot mount the host's root"
$bb mount -t tmpfs -o mode=755 upper /upper
$bb mkdir /upper/files /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root ||
    end "cannot lay a scratch layer over the host's root"

release=$($bb uname -r)
$bb mkdir -p /root/lib/modules/"$release"
$bb mount -t proc proc /root/proc
$bb mount -t sysfs sysfs /root/sys
$bb mount -t devtmpfs devtmpfs /root/dev
$bb mount -t tmpfs -o mode=755 tmpfs /root/run
$bb mkdir -p /root/dev/pts /root/dev/shm
$bb mount -t devpts devpts /root/dev/pts
$bb mount -t tmpfs tmpfs /root/dev/shm
$bb mount -t tmpfs -o mode=1777 tmpfs /root/tmp
$bb mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$bb mount -t 9p -o "$nine" modules /root/lib/modules/"$release" || end "cannot mount the kernel's modules"
$bb mkdir -p /root/run/job
$bb mount -t 9p -o "$nine" job /root/run/job || end "cannot mount the job"
[ ! -f /root/run/job/config ] || $bb cp /root/run/job/config /root/boot/config-"$release"
$bb ip link set lo up

exec $bb switch_root /root /bin/sh /run/job/main

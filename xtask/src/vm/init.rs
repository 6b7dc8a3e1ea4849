//! The guest's first process: a script for busybox.

/// Everything up to the command. What the kernel lacks is passed over.
const PREPARE: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts -o ptmxmode=666 pts /dev/pts 2>/dev/null
mount -t tmpfs -o mode=1777 shm /dev/shm 2>/dev/null
mount -t tmpfs -o mode=1777 tmp /tmp 2>/dev/null
mount -t tmpfs run /run 2>/dev/null
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null
ln -sf /proc/self/fd /dev/fd
hostname guest
while read module; do insmod $module || echo "init: $module was not loaded"; done </lib/modules/order
ip link set lo up 2>/dev/null
"#;

/// Runs `/job` with its output on the second serial port, then says how it ended.
pub(super) fn script(token: &str, mounts: &[(String, String)]) -> String {
    let mounts = self::mounts(mounts);
    format!(
        r#"{PREPARE}{mounts}exec >/dev/ttyS1 2>&1 </dev/null
stty -F /dev/ttyS1 raw -echo
cd /root
echo {token} begin
setsid sh /job
status=$?
cd /
if [ -w /sys/kernel/debug/kmemleak ]; then
    # What was allocated in the last seconds isn't looked at: two scans, apart.
    echo scan >/sys/kernel/debug/kmemleak
    sleep 6
    echo scan >/sys/kernel/debug/kmemleak
    sed 's/^/kmemleak: /' /sys/kernel/debug/kmemleak >/dev/kmsg
fi
echo {token} status $status
sync
# Without ACPI a machine can't be turned off; QEMU takes a reboot for the end.
reboot -f
"#
    )
}

/// A shell on the console.
pub(super) fn interactive(mounts: &[(String, String)]) -> String {
    let mounts = self::mounts(mounts);
    format!(
        r#"{PREPARE}{mounts}cd /root
echo "This machine ends with this shell, or by Ctrl-A X."
setsid cttyhack sh
reboot -f
"#
    )
}

fn mounts(mounts: &[(String, String)]) -> String {
    let mount = |(tag, at): &(String, String)| {
        format!(
            "mkdir -p {at}\n\
             mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 {tag} {at} || echo 'init: no 9p for {at}'\n"
        )
    };
    mounts.iter().map(mount).collect()
}

//! `node_filesystem_*`: room on the mounted file systems.

use crate::{CollectError, Family};

/// Mount points under these are not shown. Source: node_exporter, `filesystem_linux.go`,
/// `defMountPointsExcluded`.
const MOUNTS_EXCLUDED: &[&str] =
    &["/dev", "/proc", "/sys", "/run/credentials", "/var/lib/docker", "/var/lib/containers/storage"];

/// File system types that are not shown. Source: the same file, `defFSTypesExcluded`.
const TYPES_EXCLUDED: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];

pub(crate) fn collect() -> Result<Vec<Family>, CollectError> {
    let mut size = Family::gauge("node_filesystem_size_bytes", "Filesystem size in bytes.");
    let mut free = Family::gauge("node_filesystem_free_bytes", "Filesystem free space in bytes.");
    let mut avail = Family::gauge(
        "node_filesystem_avail_bytes",
        "Filesystem space available to non-root users in bytes.",
    );
    let mut files = Family::gauge("node_filesystem_files", "Filesystem total file nodes.");
    let mut files_free = Family::gauge("node_filesystem_files_free", "Filesystem total free file nodes.");
    let mut readonly = Family::gauge("node_filesystem_readonly", "Filesystem read-only status.");
    let mut error = Family::gauge(
        "node_filesystem_device_error",
        "Whether an error occurred while getting statistics for the given device.",
    );
    let mut seen = std::collections::HashSet::new();
    for mount in procfs::mounts()? {
        if excluded(&mount.fs_file, &mount.fs_vfstype) {
            continue;
        }
        let labels =
            [("device", &*mount.fs_spec), ("fstype", &*mount.fs_vfstype), ("mountpoint", &*mount.fs_file)];
        if !seen.insert(labels.map(|(_, value)| value.to_owned())) {
            continue; // mounted over itself: the top one is what statvfs sees
        }
        let Ok(stat) = rustix::fs::statvfs(&*mount.fs_file) else {
            error.push(&labels, 1.0);
            continue;
        };
        let bytes = |blocks: u64| blocks as f64 * stat.f_frsize as f64;
        error.push(&labels, 0.0);
        size.push(&labels, bytes(stat.f_blocks));
        free.push(&labels, bytes(stat.f_bfree));
        avail.push(&labels, bytes(stat.f_bavail));
        files.push(&labels, stat.f_files as f64);
        files_free.push(&labels, stat.f_ffree as f64);
        readonly.push(&labels, f64::from(u8::from(mount.fs_mntops.contains_key("ro"))));
    }
    Ok(vec![avail, error, files, files_free, free, readonly, size])
}

fn excluded(mount_point: &str, fs_type: &str) -> bool {
    let under = |root: &&str| {
        mount_point.strip_prefix(*root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    TYPES_EXCLUDED.contains(&fs_type) || MOUNTS_EXCLUDED.iter().any(under)
}

#[cfg(test)]
mod tests {
    use super::excluded;

    #[test]
    fn kernel_file_systems_are_left_out() {
        assert!(excluded("/proc", "proc"));
        assert!(excluded("/dev/shm", "tmpfs"));
        assert!(excluded("/", "overlay"));
        assert!(!excluded("/", "ext4"));
        assert!(!excluded("/development", "ext4"));
        assert!(!excluded("/run", "tmpfs"));
    }
}

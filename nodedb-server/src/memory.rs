//! How much memory a node may use: what it was told, or half of what there is.
//!
//! What there is, is the machine's memory or, in a container, the least limit of its control
//! groups (version 2), from the process's own up to the root.

use std::path::Path;

use crate::config::Config;

/// Where it cannot be found out, bytes.
const UNKNOWN: u64 = 2 << 30;

/// Bytes for statements, and for rows and keys in memory, together.
pub fn of_node(config: &Config) -> u64 {
    config.memory.unwrap_or_else(|| of_host() / 2)
}

fn of_host() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let group = read(Path::new("/proc/self/cgroup"));
    let group = group.as_deref().and_then(own_group).unwrap_or("");
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(group.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|path| path.starts_with(root));
    let limits = groups.filter_map(|path| limit(&read(&path.join("memory.max"))?));
    limits.chain(machine).min().unwrap_or(UNKNOWN)
}

/// The total in the text of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The process's group in the text of `/proc/self/cgroup`.
fn own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The limit in the text of a group's `memory.max`; `None` where there is none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let meminfo = "MemTotal:       16314076 kB\nMemFree:         1000 kB\n";
        assert_eq!(total(meminfo), Some(16_314_076 * 1024));
        assert_eq!(total("MemFree: 1000 kB\n"), None);
        assert_eq!(
            own_group("1:cpu:/a\n0::/user.slice/b\n"),
            Some("/user.slice/b")
        );
        assert_eq!(limit("536870912\n"), Some(512 << 20));
        assert_eq!(limit("max\n"), None);
        assert!(of_host() > 64 << 20);
    }
}

//! The oldest kernel that Herald is made for. An older one is told at the start and nothing else: distributions bring features to older
//! numbers, and what is really missing is refused by the kernel, in words of its own, where it is used.

/// Debian 12 has 6.1, the reference; 5.15 is the oldest that distributions of today begin with.
const OLDEST: (u32, u32) = (5, 15);

/// What is to be said about the running kernel, if anything.
pub(crate) fn doubt() -> Option<String> {
    // Unreadable only where there is no /proc, and then other things fail first.
    kernel_doubt(std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim())
}

/// What is to be said about a kernel, as `uname -r` names it; nothing if Herald is made for it.
pub fn kernel_doubt(release: &str) -> Option<String> {
    let version = version(release)?;
    let (major, minor) = OLDEST;
    (version < OLDEST).then(|| {
        format!(
            "this node's kernel is {release}, older than {major}.{minor}, the oldest that Herald is made for: some of its rules \
             may be refused; update the kernel"
        )
    })
}

/// The first two numbers of a release such as `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_older_than_the_floor_are_told() {
        for (release, told) in [
            ("6.1.0-28-amd64", false),
            ("6.18.0", false),
            ("5.15.0-1", false),
            ("5.15", false),
            ("5.14.0-503.el9.x86_64", true),
            ("4.19.0", true),
            ("5.4-custom", true),
            ("10.0", false),
            ("unknown", false),
            ("", false),
        ] {
            assert_eq!(kernel_doubt(release).is_some(), told, "{release}");
        }
        assert!(kernel_doubt("5.14.0").unwrap().contains("kernel is 5.14.0, older than 5.15"));
        assert_eq!(
            doubt(),
            kernel_doubt(std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim())
        );
    }
}

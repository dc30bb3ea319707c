//! Whether the kernel passes packets on at all: a node that does not reaches nobody's endpoints, and nobody reaches its pods.

use std::path::Path;

use herald_proxy::IpFamily;

/// What is wrong with it in one of these families, by the settings below a directory that has what `/proc/sys` has.
pub(crate) fn trouble(sysctls: &Path, families: &[IpFamily]) -> Option<String> {
    let off = |family: &&IpFamily| {
        let text = std::fs::read_to_string(sysctls.join(setting(**family).replace('.', "/")));
        text.is_ok_and(|text| text.trim() == "0")
    };
    let family = families.iter().find(off)?;
    Some(format!(
        "{} is 0, so it passes nothing on: who comes to it reaches no pod, and its own pods are reached from it alone",
        setting(*family)
    ))
}

/// Its name, as `sysctl` has it.
pub(crate) fn setting(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "net.ipv4.ip_forward",
        IpFamily::V6 => "net.ipv6.conf.all.forwarding",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_passes_nothing_on_in_a_family_that_it_needs_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        let told = |families: &[IpFamily]| trouble(directory.path(), families).unwrap_or_default();
        assert_eq!(told(&[IpFamily::V4, IpFamily::V6]), "", "what cannot be read is not known");
        write("net/ipv4/ip_forward", "1\n");
        write("net/ipv6/conf/all/forwarding", "0\n");
        assert_eq!(told(&[IpFamily::V4]), "");
        assert!(told(&[IpFamily::V4, IpFamily::V6]).starts_with("net.ipv6.conf.all.forwarding is 0, so"));
        write("net/ipv4/ip_forward", "0\n");
        assert!(told(&[IpFamily::V4]).starts_with("net.ipv4.ip_forward is 0, so it passes nothing on"));
    }
}

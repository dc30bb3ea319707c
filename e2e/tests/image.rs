//! What `release/image` and `release/sbom` write: the same bytes each time, and what they say is what is in them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const NAME: &str = "docker.io/library/program:1.2.3";

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// Makes an image of `text` as the program for each architecture; returns the file's bytes and the digest it is told to have.
fn image(text: &str, architectures: &[&str], title: &str) -> Result<(Vec<u8>, String)> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("program");
    std::fs::write(&program, text)?;
    let out = directory.path().join("out.tar");
    let mut command = Command::new(Path::new(ROOT).join("release/image"));
    command
        .arg(&out)
        .arg(NAME)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .env("TITLE", title)
        .env("COMMAND", "pause");
    command.args(architectures.iter().map(|name| format!("{name}={}", program.display())));
    let digest = String::from_utf8(output(&mut command)?)?.trim().to_owned();
    Ok((std::fs::read(out)?, digest))
}

/// An unpacked layout.
struct Layout(tempfile::TempDir);

impl Layout {
    fn unpack(tar: &[u8]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("image.tar");
        std::fs::write(&file, tar)?;
        output(Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(directory.path()))?;
        Ok(Self(directory))
    }

    fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.0.path().join(path))?)?)
    }

    /// The path of what a descriptor names; its digest and size are checked.
    fn blob(&self, descriptor: &Value) -> Result<String> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let file = self.0.path().join(&path);
        let sum = String::from_utf8(output(Command::new("sha256sum").arg(&file))?)?;
        ensure!(digest == format!("sha256:{}", sum.split(' ').next().unwrap_or_default()), "{digest}: {sum}");
        ensure!(descriptor["size"] == std::fs::metadata(&file)?.len(), "{descriptor}");
        Ok(path)
    }
}

#[test]
fn the_same_program_makes_the_same_image() -> Result<()> {
    let first = image("program", &["amd64", "arm64"], "Title")?;
    // Another folder, another time, the same bytes.
    ensure!(first == image("program", &["amd64", "arm64"], "Title")?, "two builds differ");
    ensure!(
        first.1 != image("another program", &["amd64", "arm64"], "Title")?.1,
        "another program, the same digest"
    );
    Ok(())
}

#[test]
fn an_image_is_a_layout_of_one_program_for_each_architecture() -> Result<()> {
    let (tar, digest) = image("program", &["amd64", "arm64"], "a \"title\"")?;
    let layout = Layout::unpack(&tar)?;
    ensure!(layout.json("oci-layout")?["imageLayoutVersion"] == "1.0.0");
    let top = &layout.json("index.json")?["manifests"];
    ensure!(top.as_array().is_some_and(|all| all.len() == 1) && top[0]["digest"] == digest.as_str(), "{top}");
    for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        ensure!(top[0]["annotations"][key] == NAME, "{top}");
    }
    let manifests = layout.json(&layout.blob(&top[0])?)?["manifests"].clone();
    let mut architectures = Vec::new();
    for descriptor in manifests.as_array().context("manifests")? {
        let manifest = layout.json(&layout.blob(descriptor)?)?;
        let config = layout.json(&layout.blob(&manifest["config"])?)?;
        ensure!(
            config["architecture"] == descriptor["platform"]["architecture"] && config["os"] == "linux",
            "{config}"
        );
        ensure!(config["config"]["Entrypoint"] == serde_json::json!(["/program"]), "{config}");
        ensure!(config["config"]["Cmd"] == serde_json::json!(["pause"]), "{config}");
        ensure!(config["config"]["Labels"]["org.opencontainers.image.title"] == "a \"title\"", "{config}");
        ensure!(config["created"] == "2023-11-14T22:13:20Z", "{config}");
        let layer = layout.blob(&manifest["layers"][0])?;
        let listed = output(Command::new("tar").current_dir(layout.0.path()).args(["-tvzf", &layer]))?;
        let listed = String::from_utf8(listed)?;
        ensure!(listed.lines().count() == 1 && listed.starts_with("-rwxr-xr-x 0/0"), "{listed}");
        let unpacked = output(Command::new("gzip").current_dir(layout.0.path()).args(["-dc", &layer]))?;
        std::fs::write(layout.0.path().join("layer"), unpacked)?;
        let sum = output(Command::new("sha256sum").arg(layout.0.path().join("layer")))?;
        let diff = format!("sha256:{}", String::from_utf8(sum)?.split(' ').next().unwrap_or_default());
        ensure!(config["rootfs"]["diff_ids"] == serde_json::json!([diff]), "{config}");
        architectures.push(config["architecture"].as_str().unwrap_or_default().to_owned());
    }
    ensure!(architectures == ["amd64", "arm64"], "{architectures:?}");
    Ok(())
}

#[test]
fn an_image_of_one_architecture_is_no_index() -> Result<()> {
    let (tar, digest) = image("program", &["amd64"], "Title")?;
    let layout = Layout::unpack(&tar)?;
    let top = layout.json("index.json")?["manifests"][0].clone();
    ensure!(
        top["mediaType"] == "application/vnd.oci.image.manifest.v1+json" && top["digest"] == digest.as_str()
    );
    ensure!(top["platform"]["architecture"] == "amd64", "{top}");
    layout.blob(&top).map(drop)
}

#[test]
fn a_directory_becomes_all_that_is_in_the_image() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::write(root.join("bin/busybox"), "busybox")?;
    std::os::unix::fs::symlink("busybox", root.join("bin/sh"))?;
    let made = |entrypoint: &str| -> Result<(Layout, Value)> {
        let out = directory.path().join("out.tar");
        let mut command = Command::new(Path::new(ROOT).join("release/image"));
        command.arg(&out).arg(NAME).arg(format!("amd64={}", root.display()));
        output(command.env("ENTRYPOINT", entrypoint).env("COMMAND", "sh -l"))?;
        let layout = Layout::unpack(&std::fs::read(out)?)?;
        let top = layout.json("index.json")?["manifests"][0].clone();
        let manifest = layout.json(&layout.blob(&top)?)?;
        Ok((layout, manifest))
    };
    let (layout, manifest) = made("")?;
    let layer = layout.blob(&manifest["layers"][0])?;
    let listed = output(Command::new("tar").current_dir(layout.0.path()).args(["-tzf", &layer]))?;
    ensure!(String::from_utf8(listed)? == "./\n./bin/\n./bin/busybox\n./bin/sh\n");
    let config = layout.json(&layout.blob(&manifest["config"])?)?["config"].clone();
    ensure!(config["Entrypoint"].is_null() && config["Cmd"] == serde_json::json!(["sh", "-l"]), "{config}");
    let (layout, manifest) = made("/bin/busybox -x")?;
    let config = layout.json(&layout.blob(&manifest["config"])?)?["config"].clone();
    ensure!(config["Entrypoint"] == serde_json::json!(["/bin/busybox", "-x"]), "{config}");
    Ok(())
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let mut command = Command::new(Path::new(ROOT).join("release/image"));
    let failed = output(command.args(["out.tar", NAME, "amd64=/no/such/program"])).expect_err("no program");
    assert!(failed.to_string().contains("amd64=/no/such/program: no such program"), "{failed}");
}

#[test]
fn the_bill_of_materials_names_what_is_linked_and_nothing_else() -> Result<()> {
    let sbom = || output(Command::new(Path::new(ROOT).join("release/sbom")).arg("x86_64-unknown-linux-musl"));
    let text = sbom()?;
    ensure!(text == sbom()?, "two runs differ");
    let bill: Value = serde_json::from_slice(&text)?;
    let components = bill["components"].as_array().context("components")?;
    let named = |name: &str| components.iter().any(|component| component["name"] == name);
    for linked in ["herald-bgp", "kube-client", "ring", "rust-std", "tokio"] {
        ensure!(named(linked), "{linked} is missing");
    }
    // The tests' own, a macro's, and a feature that only the tests use.
    for other in ["herald-e2e", "proptest", "syn", "kube-runtime"] {
        ensure!(!named(other), "{other} is not in the binary");
    }
    let locked = std::fs::read_to_string(Path::new(ROOT).join("Cargo.lock"))?;
    for component in components {
        let field = |key: &str| component[key].as_str().context("a text");
        let (name, version) = (field("name")?, field("version")?);
        let ours = name.starts_with("herald-") || name == "rust-std";
        let checksum = component["hashes"][0]["content"].as_str();
        ensure!(ours || checksum.is_some_and(|sum| locked.contains(sum)), "{component}");
        ensure!(
            name == "rust-std" || locked.contains(&format!("name = \"{name}\"\nversion = \"{version}\""))
        );
        ensure!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let top = &bill["metadata"]["component"];
    ensure!(top["name"] == "herald" && top["version"] == env!("CARGO_PKG_VERSION"), "{top}");
    let known: BTreeSet<&str> =
        components.iter().chain([top]).filter_map(|component| component["bom-ref"].as_str()).collect();
    ensure!(known.len() == components.len() + 1, "a name twice");
    let is_known = |reference: &Value| reference.as_str().is_some_and(|reference| known.contains(reference));
    for dependency in bill["dependencies"].as_array().context("dependencies")? {
        let uses = dependency["dependsOn"].as_array().context("dependsOn")?;
        ensure!(is_known(&dependency["ref"]) && uses.iter().all(is_known), "{dependency}");
    }
    Ok(())
}

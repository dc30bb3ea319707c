//! Links the static binary with packed relocations: a position-independent program of this size has a megabyte of them
//! otherwise. musl applies them at start (since 1.2.4), ld writes them (since binutils 2.38).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

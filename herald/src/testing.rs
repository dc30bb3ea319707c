//! What several test modules share.

/// Compares a screen with its golden file in `testdata`; `UPDATE_GOLDEN=1` writes that anew.
pub(crate) fn golden(name: &str, screen: &str) {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, screen).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, screen, "UPDATE_GOLDEN=1 rewrites {path}");
}

/// What a document shows of a screen is as the screen is.
pub(crate) fn documented(document: &str, screen: &str) {
    assert!(document.contains(screen), "it should have:\n{screen}");
}

//! What several test modules share: a network namespace of their own.

pub(crate) mod bird;
pub(crate) mod far;
pub(crate) mod routers;

use std::future::Future;

/// Runs a test in a fresh network namespace with `lo` up; it vanishes with the thread.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            let driver = tokio::task::spawn_local(connection);
            let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
            handle.link().set(up).execute().await.unwrap();
            test().await;
            driver.abort();
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

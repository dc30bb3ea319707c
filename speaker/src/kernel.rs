//! The thread that talks to nf_tables.
//!
//! `herald_proxy::netlink::Kernel` blocks while the kernel handles a batch. It lives on one thread of its own, opened in
//! the network namespace of its creator; calls come through a channel of depth one, because the only caller awaits each.

use std::io;

use herald_proxy::netlink::{DropRules, Kernel, KernelError, Monitor};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

type Call = Box<dyn FnOnce(&mut Kernel) + Send>;

/// The kernel's nf_tables, from asynchronous code.
#[derive(Debug)]
pub(crate) struct KernelThread {
    calls: mpsc::Sender<Call>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The kernel's answer is an error.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// There is no thread (any more).
    #[error("the thread that writes nftables has ended")]
    Gone,
    /// The thread could not be started.
    #[error("cannot start the thread that writes nftables")]
    Start(#[source] io::Error),
}

/// Others' chains in the network namespace of the calling thread that drop what is forwarded unless a rule of theirs accepts it.
pub fn forward_drops() -> anyhow::Result<Vec<String>> {
    Ok(Kernel::open()?.forward_drops()?)
}

/// Others' rules there that drop packets of what Herald serves.
pub fn drop_rules() -> anyhow::Result<DropRules> {
    Ok(Kernel::open()?.drop_rules()?)
}

impl KernelThread {
    /// Starts the thread and opens the socket. The thread ends with this value.
    pub(crate) async fn start() -> Result<Self, CallError> {
        let (calls, mut queue) = mpsc::channel::<Call>(1);
        let (opened, answer) = oneshot::channel();
        let run = move || match Kernel::open() {
            Ok(mut kernel) => {
                let _ = opened.send(Ok(()));
                while let Some(call) = queue.blocking_recv() {
                    call(&mut kernel);
                }
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        };
        std::thread::Builder::new().name("nftables".to_owned()).spawn(run).map_err(CallError::Start)?;
        answer.await.map_err(|_| CallError::Gone)??;
        Ok(Self { calls })
    }

    /// A monitor of others' edits. Without one they are noticed later.
    pub(crate) async fn monitor(&self) -> Option<Monitor> {
        let runtime = Handle::current();
        let opened = self.call(move |kernel| {
            let _entered = runtime.enter();
            kernel.monitor()
        });
        match opened.await {
            Ok(monitor) => Some(monitor),
            Err(error) => {
                let error = herald_runtime::chain(&error);
                tracing::warn!(
                    error,
                    "no notifications of nftables: edits by others are noticed within seconds only"
                );
                None
            }
        }
    }

    /// Calls the kernel and waits for its answer, which has a deadline of its own.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Kernel) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |kernel| {
            let _ = answer.send(call(kernel));
        });
        self.calls.send(call).await.map_err(|_| CallError::Gone)?;
        Ok(answered.await.map_err(|_| CallError::Gone)??)
    }
}

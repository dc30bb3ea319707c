//! The driver of an [`Election`]: one loop that reads and writes the Lease and tells who leads.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Election, Input, Output, Record, Timings};
use crate::chain;
use crate::complaint::Complaint;
use crate::readiness::Handle;

/// No single read or write of the Lease may take longer.
const CALL: Duration = Duration::from_secs(10);
/// The holder's duration is believed up to this.
const LONGEST: i32 = 3600;

/// Which Lease, and who we are.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Our own name: unique among the candidates, new with each process.
    pub identity: String,
    /// The durations; see [`Timings::validate`].
    pub timings: Timings,
}

/// Takes part in the election until `stopped` is cancelled, then releases the Lease.
///
/// `leading` carries the leadership. Cancel `stopped` only after the work of the leader has ended: until then the
/// Lease is renewed, so that nobody else starts while ours still writes. `taking_part` gets ready with the first answer of the
/// API server. Fails only if the timings are invalid.
pub async fn run(
    client: Client,
    options: LeaseOptions,
    leading: watch::Sender<bool>,
    taking_part: Handle,
    stopped: CancellationToken,
) -> anyhow::Result<()> {
    options.timings.validate()?;
    let mut shell = Shell {
        api: Api::namespaced(client, &options.namespace),
        options: &options,
        last: None,
        failing: Complaint::default(),
    };
    let mut election = Election::new(options.identity.clone(), options.timings, Instant::now());
    loop {
        let (input, stop) = tokio::select! {
            () = stopped.cancelled() => (Input::Stop, true),
            () = tokio::time::sleep_until(election.next_deadline().into()) => (Input::Deadline, false),
        };
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in election.handle(Instant::now(), input) {
                match output {
                    Output::Lead => {
                        tracing::info!(lease = options.name, identity = options.identity, "leading");
                        leading.send_replace(true);
                    }
                    Output::Follow => {
                        tracing::info!(
                            lease = options.name,
                            holder = election.holder(),
                            "not leading any more"
                        );
                        leading.send_replace(false);
                    }
                    Output::Read | Output::Write { .. } | Output::Release => {
                        let answer = shell.perform(&output, election.lost_at()).await;
                        if answer != Input::Failed {
                            taking_part.ready();
                        }
                        if output != Output::Release {
                            inputs.push(answer);
                        }
                    }
                }
            }
        }
        if stop {
            return Ok(());
        }
    }
}

struct Shell<'a> {
    api: Api<Lease>,
    options: &'a LeaseOptions,
    /// The object as it was read or written last: what a write replaces.
    last: Option<Lease>,
    /// Calls fail.
    failing: Complaint,
}

impl Shell<'_> {
    /// Reads or writes, but never beyond the end of the leadership.
    async fn perform(&mut self, output: &Output, lost_at: Option<Instant>) -> Input {
        let sent = Instant::now();
        let deadline = lost_at.map_or(sent + CALL, |lost| lost.min(sent + CALL));
        let call = async {
            match output {
                Output::Read => {
                    let lease = self.api.get_opt(&self.options.name).await?;
                    Ok((lease, true))
                }
                Output::Write { takeover } => self.write(*takeover).await.map(|lease| (Some(lease), false)),
                _ => self.release().await.map(|lease| (lease, true)),
            }
        };
        let result: Result<(Option<Lease>, bool), kube::Error> =
            match tokio::time::timeout_at(deadline.into(), call).await {
                Ok(result) => result,
                Err(_) => Err(kube::Error::Service("no answer in time".into())),
            };
        match result {
            Ok((lease, read)) => {
                self.failing = Complaint::default();
                let record = lease.as_ref().map(record);
                self.last = lease;
                match record {
                    record if read => Input::Read(record),
                    Some(record) => Input::Written(sent, record),
                    None => Input::Failed,
                }
            }
            Err(error) => {
                let conflict = matches!(&error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists());
                if conflict {
                    self.failing = Complaint::default();
                } else if self.failing.is_due(&error, Instant::now()) {
                    tracing::warn!(
                        lease = self.options.name,
                        error = chain(&error),
                        "the lease that says who leads cannot be read or written; trying again"
                    );
                }
                Input::Failed
            }
        }
    }

    async fn write(&self, takeover: bool) -> Result<Lease, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let mut lease = self.last.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.options.name.clone()),
                namespace: Some(self.options.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        if takeover {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        }
        spec.holder_identity = Some(self.options.identity.clone());
        spec.lease_duration_seconds =
            Some(i32::try_from(self.options.timings.duration.as_secs()).unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        if self.last.is_some() {
            self.api.replace(&self.options.name, &PostParams::default(), &lease).await
        } else {
            self.api.create(&PostParams::default(), &lease).await
        }
    }

    async fn release(&self) -> Result<Option<Lease>, kube::Error> {
        let Some(mut lease) = self.last.clone() else { return Ok(None) };
        lease.metadata.managed_fields = None;
        let now = MicroTime(Timestamp::now());
        lease.spec = Some(LeaseSpec {
            // The API refuses an empty holder name; no holder at all is the released state.
            holder_identity: None,
            lease_duration_seconds: Some(1),
            lease_transitions: lease.spec.as_ref().and_then(|spec| spec.lease_transitions),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        });
        self.api.replace(&self.options.name, &PostParams::default(), &lease).await.map(Some)
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(1).clamp(1, LONGEST);
    Record {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        duration: Duration::from_secs(seconds.unsigned_abs().into()),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

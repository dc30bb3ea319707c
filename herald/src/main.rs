//! The Herald binary: `controller`, `speaker`, `cleanup`, `crds`, `check`, `migrate`, `explain`, `status`, `history`, `plan`, `doctor`. It reads flags, sets up logs and runs one role; what a role
//! does stands in its own crate.

mod cluster;
mod doctor;
mod explain;
mod flags;
mod history;
mod leader;
mod log;
mod memory;
mod offline;
mod plan;
mod speakers;
mod status;
#[cfg(test)]
mod testing;
mod tip;
mod tries;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use herald_runtime::client;
use herald_runtime::shutdown;
use herald_speaker::SpeakerOptions;

use crate::doctor::DoctorFlags;
use crate::explain::ExplainFlags;
use crate::flags::{CleanupFlags, ControllerFlags, SpeakerFlags};
use crate::history::HistoryFlags;
use crate::log::LogFlags;
use crate::offline::FileFlags;
use crate::plan::PlanFlags;
use crate::status::StatusFlags;
use crate::tries::TryFlags;

/// musl's own allocator has one lock for all threads: a start with tens of thousands of objects takes twice as long with
/// it. Without huge pages, which would double what a small cluster takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives Services of `type: LoadBalancer` addresses that work: assigns them, announces them and serves them.
#[derive(Debug, Parser)]
#[command(name = "herald", version)]
struct Cli {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The cluster role: gives addresses from the pools to Services. Run two, one of them leads.
    Controller(ControllerFlags),
    /// The node role: serves Services' addresses on this node and announces them. Run one on every node.
    Speaker(SpeakerFlags),
    /// Removes from this node what a stopped speaker left (nftables tables, local addresses, raised settings, files), or from
    /// the cluster what a stopped controller left (finalizers).
    Cleanup(CleanupFlags),
    /// Prints the CustomResourceDefinitions of metallb.io, for `kubectl apply -f -`.
    Crds,
    /// Judges configuration without a cluster: objects of metallb.io and the ConfigMap. Exit code 0: all of it would be taken,
    /// perhaps with warnings; 1: something would be refused; 2: a file cannot be read.
    Check(FileFlags),
    /// Turns a ConfigMap into objects of metallb.io that mean the same, for `kubectl apply -f -`. Exit codes as `check`.
    Migrate(FileFlags),
    /// Asks a running speaker what it does with one Service or one packet, and why.
    Explain(ExplainFlags),
    /// Tells how the whole cluster is, what is wrong first; or one subject of it in full; or keeps looking (--watch).
    Status(StatusFlags),
    /// Tells what happened to an address on all nodes, in one order: who had it when, and why; without one, what happened last to any.
    History(HistoryFlags),
    /// Has every node try every endpoint of a Service, by a TCP connection that is closed at once: what answers whom, and what does not.
    /// Exit code 0: all that get connections answer every node; 1: some do not, or nobody could be asked.
    Try(TryFlags),
    /// Tells what other configuration would do, before it is applied: which Services would have other addresses and why, what becomes of BGP sessions,
    /// routes and owners by layer 2, and which connections would break. Exit code 0: all of it would be taken; 1: something would be refused; 2: a file or the cluster cannot be read.
    Plan(PlanFlags),
    /// Looks for what stands in Herald's way, in the cluster or on this node, before it is installed and after. Exit code 0: no
    /// error, perhaps warnings; 1: something does not work, or will not; 2: nothing could be looked at.
    Doctor(DoctorFlags),
}

fn main() -> ExitCode {
    let Cli { log, command } = Cli::try_parse().map_err(tip::add).unwrap_or_else(|error| error.exit());
    if !matches!(&command, Command::Status(flags) if flags.is_live()) {
        log.init();
    }
    match &command {
        Command::Check(flags) => return offline::check(flags),
        Command::Migrate(flags) => return offline::migrate(flags),
        Command::Crds => return offline::crds(),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(memory::give_back_own)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start");
            return ExitCode::FAILURE;
        }
    };
    // An answer for a person, not lines of a log.
    let asked = match command {
        Command::Explain(_) => Some(("explain", ExitCode::FAILURE)),
        Command::Status(_) => Some(("status", ExitCode::FAILURE)),
        Command::History(_) => Some(("history", ExitCode::FAILURE)),
        Command::Try(_) => Some(("try", ExitCode::FAILURE)),
        Command::Plan(_) => Some(("plan", ExitCode::from(offline::UNREADABLE))),
        Command::Doctor(_) => Some(("doctor", ExitCode::from(doctor::BLIND))),
        _ => None,
    };
    match runtime.block_on(run(command)) {
        Ok(code) => code,
        Err(error) => match asked {
            Some((command, code)) => {
                eprintln!("herald {command}: {error:#}");
                code
            }
            None => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Controller(flags) => {
            memory::give_back();
            let options = flags.into_options();
            shutdown::run(|stop| herald_controller::run(options, stop)).await?;
        }
        Command::Speaker(flags) => {
            memory::give_back();
            let connection = flags.client.options();
            let client = client::connect(&connection).await.context("no API client")?;
            let api_servers = client::server_addresses(&connection).await?;
            let options = SpeakerOptions { api_servers, ..flags.into_options(client) };
            shutdown::run(|stop| herald_speaker::run(options, stop)).await?;
        }
        Command::Cleanup(CleanupFlags { cluster: true, client, .. }) => {
            let client = client::connect(&client.options()).await.context("no API client")?;
            let removed = herald_controller::cleanup::finalizers(client).await?;
            println!("finalizers: {removed} removed");
        }
        Command::Cleanup(CleanupFlags { cluster: false, stay, sysctl, state, .. }) => {
            let cleaned =
                herald_speaker::cleanup(&sysctl.sysctl_directory, state.directory().as_deref()).await?;
            println!(
                "nftables tables: {}; local addresses: {} removed; settings: {} put back; files: {} removed",
                if cleaned.tables { "removed" } else { "none were there" },
                cleaned.addresses,
                cleaned.settings,
                cleaned.files
            );
            if stay {
                shutdown::run(|stop| async move {
                    stop.cancelled().await;
                    Ok(())
                })
                .await?;
            }
        }
        // Answered before there is a runtime.
        Command::Crds | Command::Check(_) | Command::Migrate(_) => {}
        Command::Explain(flags) => print(&explain::run(flags).await?),
        Command::Status(flags) => return status::run(flags).await,
        Command::History(flags) => print(&history::run(flags).await?),
        Command::Try(flags) => {
            let (text, well) = tries::run(flags).await?;
            print(&text);
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Plan(flags) => return plan::run(flags).await,
        Command::Doctor(flags) => {
            let (report, output) = doctor::run(flags).await?;
            print(&output.of(&report, &report)?);
            return Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn print(text: &str) {
    // A closed pipe (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_a_status_stand_before_its_subject_or_after_it() {
        let taken = |line: &str| format!("{:?}", Cli::parse_from(line.split(' ')));
        for line in [
            "herald status -o wide --kubeconfig a services -n shop",
            "herald status services -n shop -o wide --kubeconfig a",
        ] {
            let taken = taken(line);
            assert!(taken.contains("output: Wide") && taken.contains("kubeconfig: Some(\"a\")"), "{taken}");
        }
        assert_eq!(taken("herald status -w bgp"), taken("herald status bgp -w"));
    }
}

//! `lab`: the demo's lab from the command line, and the small programs that labs run inside.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use herald_e2e::{Lab, demo, serve};

#[derive(Parser)]
#[command(
    name = "lab",
    about = "A cluster in network namespaces: nodes, router, client, pods, a real API server"
)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Lays out the lab and leaves it up, without Herald
    Up,
    /// Takes the lab down; nothing is left
    Down,
    /// Lays out the lab, runs Herald in it and shows a Service that works
    Demo,
    /// Runs a command in a namespace of the lab: node1, router, client, cp, pod-default-web-1
    Exec {
        /// The namespace
        place: String,
        /// The command; kubectl and herald use the lab's API server, birdc the lab's BIRD
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Starts and ends pods of the lab as their objects come and go
    #[command(hide = true)]
    Kubelet {
        /// The lab
        #[arg(long, default_value = demo::LAB)]
        lab: String,
    },
    /// Serves HTTP and datagrams, telling who asks
    #[command(hide = true)]
    Serve {
        /// What it calls itself
        #[arg(long)]
        name: String,
        /// Ports for HTTP
        #[arg(long)]
        tcp: Vec<u16>,
        /// Ports for datagrams
        #[arg(long)]
        udp: Vec<u16>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Action::Up => demo::up().map(drop),
        Action::Down => demo::down(),
        Action::Demo => demo::run(),
        Action::Exec { place, command } => exec(&place, &command),
        Action::Kubelet { lab } => Lab::attach(&lab).map(|lab| lab.run_kubelet()),
        Action::Serve { name, tcp, udp } => serve::run(&name, &tcp, &udp),
    }
}

fn exec(place: &str, command: &[String]) -> Result<()> {
    let lab = Lab::attach(demo::LAB)?;
    let name = format!("{}-{place}", lab.name());
    if !herald_e2e::namespaces().contains(&name) {
        let known: Vec<String> = herald_e2e::namespaces()
            .iter()
            .filter_map(|other| other.strip_prefix(&format!("{}-", lab.name())).map(str::to_owned))
            .collect();
        bail!("the lab has no {place}; it has: {}", known.join(", "));
    }
    let (program, arguments) = command.split_first().context("a command")?;
    let mut process = Command::new("ip");
    process.args(["netns", "exec", &name]);
    match program.as_str() {
        "kubectl" => process.arg(herald_e2e::programs()?.join("kubectl")),
        "herald" => process.arg(herald_e2e::herald_program()?),
        "birdc" => process.arg("/usr/sbin/birdc").arg("-s").arg(lab.router().socket()),
        _ => process.arg(program),
    };
    Err(process.args(arguments).env("KUBECONFIG", lab.kubeconfig()).exec()).context("run ip netns exec")
}

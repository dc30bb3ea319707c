//! Whether a connection takes longer where the kernel has the rules of many Services than where it has those of ten.
//!
//! Two pods on two nodes, equally far from the pod that serves: one node with all rules, the other with those that a
//! speaker left there when there were ten Services. They connect in turns, so that what else the machine does meets both.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::table::{Table, percentile};
use crate::namespace::Namespace;

/// Connections from each.
const SAMPLES: usize = 4000;
/// Not counted: caches are cold, neighbours unknown.
const WARM_UP: usize = 200;
/// "The same within noise": medians differ by no more than this share.
const NOISE: f64 = 0.10;

/// Connects to `many_to` through many rules and to `few_to` through few.
pub fn measure(
    (many, many_to): (&Namespace, SocketAddr),
    (few, few_to): (&Namespace, SocketAddr),
    services: u32,
    table: &mut Table,
) -> Result<()> {
    let times = std::thread::scope(|scope| {
        // A thread in each namespace; a token goes to and fro between them.
        let asked = [sync_channel::<()>(1), sync_channel::<()>(1)];
        let mut askers = Vec::new();
        let mut answers = Vec::new();
        for ((ask, asked), (ns, to)) in asked.into_iter().zip([(many, many_to), (few, few_to)]) {
            let (answer, answered) = sync_channel::<Result<Duration>>(1);
            scope.spawn(move || {
                ns.run(move || {
                    for () in asked {
                        if answer.send(connect(to)).is_err() {
                            return;
                        }
                    }
                })
            });
            askers.push(ask);
            answers.push(answered);
        }
        let mut times = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
        for round in 0..SAMPLES + WARM_UP {
            // Who goes first changes too.
            for turn in 0..2 {
                let which = (round + turn) % 2;
                askers[which].send(()).context("a pod's thread has ended")?;
                let took = answers[which].recv().context("a pod's thread has ended")??;
                if round >= WARM_UP {
                    times[which].push(took.as_secs_f64() * 1_000_000.0);
                }
            }
        }
        Ok::<_, anyhow::Error>(times)
    })?;
    let [many, few] = &times;
    let mut row = table.row("latency", Some(services));
    row.put("herald", "connect, p50", percentile(many, 50.0), "µs");
    row.put("herald", "connect, p99", percentile(many, 99.0), "µs");
    row.put("ten Services", "connect through ten Services, p50", percentile(few, 50.0), "µs");
    row.put("ten Services", "connect through ten Services, p99", percentile(few, 99.0), "µs");
    row.bar(
        "connect p50 / through ten Services",
        percentile(many, 50.0) / percentile(few, 50.0),
        "",
        1.0 + NOISE,
    );
    ensure!(many.len() == SAMPLES && few.len() == SAMPLES, "not all connections were made");
    Ok(())
}

/// One connection: the first packet of a flow, through the rules, and its answer.
fn connect(to: SocketAddr) -> Result<Duration> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // Closed by a reset: nothing of thousands is left in TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    let begin = Instant::now();
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).with_context(|| format!("connect to {to}"))?;
    let took = begin.elapsed();
    // Not timed: an answer, so that the server keeps up and its queue is never what is measured.
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    stream.read_exact(&mut [0; 1]).with_context(|| format!("no answer from {to}"))?;
    Ok(took)
}

//! The server of a pod: tells who it is, who asks and at which address, over HTTP and by datagrams, both families.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A request's head may be this long.
const HEAD: usize = 16 * 1024;

/// Serves until it is killed.
pub fn run(name: &str, tcp: &[u16], udp: &[u16]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(name, tcp, udp))
}

async fn serve(name: &str, tcp: &[u16], udp: &[u16]) -> Result<()> {
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for port in udp {
        let socket = UdpSocket::bind(any(*port)).await.with_context(|| format!("UDP port {port}"))?;
        tasks.spawn(datagrams(socket, name.to_owned(), *port));
    }
    for port in tcp {
        let listener = TcpListener::bind(any(*port)).await.with_context(|| format!("TCP port {port}"))?;
        tasks.spawn(connections(listener, name.to_owned()));
    }
    println!("listening");
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => anyhow::bail!("no port to serve"),
    }
}

/// IPv6 with IPv4 mapped into it: one socket for both.
fn any(port: u16) -> SocketAddr {
    ([0u16; 8], port).into()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn text(name: &str, client: SocketAddr, server: &str) -> String {
    format!("pod={name}\nclient={}\nserver={server}\n", canonical(client))
}

async fn datagrams(socket: UdpSocket, name: String, port: u16) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error of an earlier answer is told here; it is not this socket's end.
        let Ok((_, client)) = socket.recv_from(&mut buffer).await else { continue };
        // Which of its addresses was asked an unconnected socket does not say.
        let answer = text(&name, client, &format!("0.0.0.0:{port}"));
        let _ = socket.send_to(answer.as_bytes(), client).await;
    }
}

async fn connections(listener: TcpListener, name: String) -> Result<()> {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, client)) = accepted {
                    open.spawn(connection(stream, client, name.clone()));
                }
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn connection(mut stream: TcpStream, client: SocketAddr, name: String) -> Result<()> {
    let server = canonical(stream.local_addr()?);
    let _ = stream.set_nodelay(true);
    let mut received = Vec::new();
    loop {
        while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            received.drain(..end + 4);
            let close = head.contains("\r\nconnection: close");
            let body = text(&name, client, &server.to_string());
            let kept = if close { "close" } else { "keep-alive" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {kept}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await?;
            if close {
                return Ok(stream.shutdown().await?);
            }
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await?;
        if count == 0 || received.len() > HEAD {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..count]);
    }
}

//! Writes objects straight into etcd: tens of thousands take seconds there and, through the API server, many minutes.
//!
//! For copies of objects that the API server itself has made, and in a lab only: nobody checks what is written here. The
//! API server reads JSON as well as its own encoding, and tells its watches as if it had written them itself.
//! etcd is asked by its HTTP gateway, a transaction for each hundred objects, over one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::namespace::Namespace;

const ADDRESS: (&str, u16) = ("127.0.0.1", 2379);
/// etcd takes 128 operations in a transaction and 1.5 MiB in a request.
const AT_ONCE: usize = 100;
/// For one transaction.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes objects under their keys, from the control plane's namespace. `told` is called after each transaction with the
/// number written so far.
pub(in crate::bench) fn put(
    control_plane: &Namespace,
    objects: impl Iterator<Item = (String, Value)> + Send,
    told: impl Fn(usize) + Send,
) -> Result<()> {
    control_plane.run(move || {
        let stream = TcpStream::connect(ADDRESS).context("connect to etcd")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut connection = BufReader::new(stream);
        let (mut objects, mut written) = (objects.peekable(), 0);
        while objects.peek().is_some() {
            let puts: Vec<Value> = objects
                .by_ref()
                .take(AT_ONCE)
                .map(|(key, object)| {
                    let value = base64(object.to_string().as_bytes());
                    json!({ "requestPut": { "key": base64(key.as_bytes()), "value": value } })
                })
                .collect();
            written += puts.len();
            transact(&mut connection, &json!({ "success": puts }).to_string())?;
            told(written);
        }
        Ok(())
    })?
}

fn transact(connection: &mut BufReader<TcpStream>, body: &str) -> Result<()> {
    let head = format!(
        "POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.get_mut().write_all(head.as_bytes())?;
    connection.get_mut().write_all(body.as_bytes())?;
    let mut status = String::new();
    connection.read_line(&mut status).context("etcd's answer")?;
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(connection.read_line(&mut line)? > 0, "etcd closed the connection");
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    let mut answer = String::new();
    match length {
        Some(length) => {
            let mut bytes = vec![0; length];
            connection.read_exact(&mut bytes)?;
            answer.push_str(&String::from_utf8_lossy(&bytes));
        }
        None => chunks(connection, &mut answer)?,
    }
    if !status.contains(" 200 ") {
        bail!("etcd: {} {answer}", status.trim());
    }
    Ok(())
}

/// A body in chunks.
fn chunks(connection: &mut BufReader<TcpStream>, body: &mut String) -> Result<()> {
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).with_context(|| format!("chunk {line:?}"))?;
        let mut bytes = vec![0; length + 2];
        connection.read_exact(&mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        body.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, n| bits << 8 | u32::from(group.get(n).copied().unwrap_or(0)));
        for n in 0..4 {
            let sextet = (bits >> (18 - 6 * n)) & 63;
            let shown = n <= group.len();
            text.push(if shown { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!(["", "f", "fo", "foo", "foob"].map(of), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}

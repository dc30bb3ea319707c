//! The key of a session's TCP segments: TCP-MD5 (RFC 2385) or TCP-AO (RFC 5925), as options of the kernel.
//!
//! Neither has a wrapper in a maintained crate, nor has libc their structs. What the kernel reads is written octet by octet, so that it
//! can be compared; only the call itself is unsafe.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use herald_config::{Password, TcpAo, TcpAoAlgorithm};
use ipnet::IpNet;
use socket2::{SockAddr, Socket};

/// Longest key that the kernel takes, of either kind (`TCP_MD5SIG_MAXKEYLEN`, `TCP_AO_MAXKEYLEN`).
const MAX_KEY: usize = 80;
/// `struct __kernel_sockaddr_storage`, with which both begin.
const ADDRESS: usize = 128;
/// `struct tcp_md5sig` of `linux/tcp.h`.
const MD5: usize = ADDRESS + 8 + MAX_KEY;
/// `struct tcp_ao_add` of `linux/tcp.h`.
const AO: usize = ADDRESS + 64 + 16 + MAX_KEY;
/// A key for a network, since Linux 4.13.
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// Since Linux 6.7, where it is built in.
const TCP_AO_ADD_KEY: libc::c_int = 38;

/// What signs the segments of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// `None`: there should be one, and there is none. Such a key cannot be put on anything.
    pub(crate) password: Option<Password>,
    /// `None`: TCP-MD5.
    pub(crate) ao: Option<TcpAo>,
}

/// An option as the kernel reads it.
#[derive(Debug, PartialEq, Eq)]
struct Encoded {
    name: libc::c_int,
    octets: Vec<u8>,
}

impl Key {
    /// The key of a session; `None`: its segments are not signed.
    pub(crate) fn of(password: Option<&Password>, ao: Option<TcpAo>) -> Option<Self> {
        (password.is_some() || ao.is_some()).then(|| Self { password: password.cloned(), ao })
    }

    /// For connections with these peers' addresses; their ports do not matter. Of two MD5 keys that match the narrower one counts.
    pub(crate) fn put_on(&self, socket: &Socket, peers: IpNet) -> io::Result<()> {
        let Encoded { name, octets } = self.encode(peers)?;
        // SAFETY: the file descriptor is open as long as `socket` is borrowed; pointer and length describe `octets`, which
        // the kernel only reads.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                name,
                octets.as_ptr().cast(),
                octets.len() as libc::socklen_t,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match (self.ao, error.raw_os_error()) {
            (Some(_), Some(libc::ENOPROTOOPT)) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no TCP-AO (Linux 6.7 with CONFIG_TCP_AO): use another node's, or drop tcp-ao of \
                 herald.bgp-peers here and at the peer",
            )),
            _ => Err(error),
        }
    }

    fn encode(&self, peers: IpNet) -> io::Result<Encoded> {
        // A key that is not known has no bytes, and that is refused.
        let secret = self.password.as_ref().and_then(Password::expose).unwrap_or_default().as_bytes();
        if secret.is_empty() || secret.len() > MAX_KEY {
            let text = format!("the password has {} bytes; 1 to {MAX_KEY} are possible", secret.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let length = secret.len() as u8;
        let whole = peers.prefix_len() == peers.max_prefix_len();
        let (name, size, key) = match self.ao {
            None if whole => (libc::TCP_MD5SIG, MD5, ADDRESS + 8),
            None => (TCP_MD5SIG_EXT, MD5, ADDRESS + 8),
            Some(_) => (TCP_AO_ADD_KEY, AO, ADDRESS + 64 + 16),
        };
        let mut octets = vec![0; size];
        let address = SockAddr::from(SocketAddr::new(peers.network(), 0));
        put(&mut octets, 0, &address_octets(&address));
        match self.ao {
            None => {
                let (flags, prefix) =
                    if whole { (0, 0) } else { (TCP_MD5SIG_FLAG_PREFIX, peers.prefix_len()) };
                put(&mut octets, ADDRESS, &[flags, prefix]);
                put(&mut octets, ADDRESS + 2, &u16::from(length).to_ne_bytes());
            }
            Some(TcpAo { send_id, receive_id, algorithm }) => {
                let algorithm = match algorithm {
                    TcpAoAlgorithm::HmacSha1 => "hmac(sha1)",
                    TcpAoAlgorithm::AesCmac => "cmac(aes128)",
                };
                put(&mut octets, ADDRESS, algorithm.as_bytes());
                // Interface and flags, all 0: any interface, and no key is current before the first is. Then a MAC of 12 octets, the default.
                put(&mut octets, ADDRESS + 64 + 10, &[peers.prefix_len(), send_id, receive_id, 0, 0, length]);
            }
        }
        put(&mut octets, key, secret);
        Ok(Encoded { name, octets })
    }
}

fn put(octets: &mut [u8], at: usize, what: &[u8]) {
    octets[at..at + what.len()].copy_from_slice(what);
}

fn address_octets(address: &SockAddr) -> Vec<u8> {
    // SAFETY: an address holds as many initialised bytes as it says.
    unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), address.len() as usize) }.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str, ao: Option<TcpAo>) -> Key {
        let document =
            format!("peers:\n- {{peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, password: {secret}}}\n");
        let peers = herald_config::parse(&document).unwrap().config.peers;
        Key { password: peers[0].password.clone(), ao }
    }

    const SIGNED: TcpAo = TcpAo { send_id: 7, receive_id: 9, algorithm: TcpAoAlgorithm::AesCmac };

    #[test]
    fn an_md5_key_is_written_as_the_kernel_reads_it() {
        let of = |network: &str| key("abc", None).encode(network.parse().unwrap()).unwrap();
        let one = of("10.0.0.1/32");
        assert_eq!((one.name, one.octets.len()), (libc::TCP_MD5SIG, 216));
        assert_eq!(one.octets[..8], [2, 0, 0, 0, 10, 0, 0, 1]);
        assert_eq!(one.octets[128..140], [0, 0, 3, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0]);
        let many = of("10.1.0.0/16");
        assert_eq!((many.name, &many.octets[128..132]), (TCP_MD5SIG_EXT, &[1, 16, 3, 0][..]));
    }

    #[test]
    fn an_ao_key_is_written_as_the_kernel_reads_it() {
        let of = |network: &str, ao| key("abc", Some(ao)).encode(network.parse().unwrap()).unwrap();
        let one = of("2001:db8::1/128", SIGNED);
        assert_eq!((one.name, one.octets.len()), (TCP_AO_ADD_KEY, 288));
        assert_eq!(one.octets[..12], [10, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8]);
        assert_eq!(&one.octets[128..141], b"cmac(aes128)\0");
        assert_eq!(one.octets[192..202], [0; 10]);
        assert_eq!(one.octets[202..212], [128, 7, 9, 0, 0, 3, b'a', b'b', b'c', 0]);
        let many = of("10.1.0.0/16", TcpAo { algorithm: TcpAoAlgorithm::HmacSha1, ..SIGNED });
        assert_eq!((&many.octets[128..139], many.octets[202]), (&b"hmac(sha1)\0"[..], 16));
    }

    #[test]
    fn without_a_password_nothing_is_signed_and_with_ao_nothing_is_sent() {
        assert_eq!(Key::of(None, None), None);
        let missing = Key::of(None, Some(SIGNED)).unwrap();
        let error = missing.encode("10.0.0.1/32".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("0 bytes"), "{error}");
    }

    #[test]
    fn a_kernel_without_ao_says_so_and_one_with_it_takes_the_key() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        match key("abc", Some(SIGNED)).put_on(&socket, "192.0.2.1/32".parse().unwrap()) {
            Ok(()) => {}
            Err(error) => assert!(error.to_string().contains("this kernel has no TCP-AO"), "{error}"),
        }
    }
}

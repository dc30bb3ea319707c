//! The control packet (RFC 5880 §4.1) to octets and back.
//!
//! Decoding applies the rules of RFC 5880 §6.8.6 that need no session, in their order; what is left of them the session
//! applies. Intervals are microseconds on the wire: longer ones than 32 bits hold are sent as the longest.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use thiserror::Error;

/// The octets of a packet without authentication.
pub const LENGTH: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// A session's state (RFC 5880 §4.1, §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Switched off by its operator; no failure of the path.
    AdminDown,
    /// Nothing is heard, or nothing of the neighbour's hears us.
    Down,
    /// The neighbour is heard.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// The RFC's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }
}

/// Why a session went down last, as its end tells it (RFC 5880 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// It did not.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The neighbour said that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// Its operator switched it off.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// The RFC's words; of a code that is not assigned, none.
    pub const fn words(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "unknown diagnostic",
        }
    }
}

/// A control packet without authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sender's state.
    pub state: State,
    /// Why the sender went down last.
    pub diagnostic: Diagnostic,
    /// P: an answer with F is wanted.
    pub poll: bool,
    /// F: the answer.
    pub final_: bool,
    /// C: the sender's BFD outlives its control plane.
    pub independent: bool,
    /// D: the sender wants no periodic packets while both are Up.
    pub demand: bool,
    /// How many packets may be missing.
    pub detect_mult: NonZeroU8,
    /// The sender's name of the session.
    pub my_discriminator: NonZeroU32,
    /// The receiver's name of it, once the sender knows it.
    pub your_discriminator: Option<NonZeroU32>,
    /// The shortest time between packets that the sender wants to send.
    pub desired_min_tx: Duration,
    /// The shortest time between packets that it can receive; zero: it wants none.
    pub required_min_rx: Duration,
    /// The same of echo packets; zero: it does not send them back.
    pub required_min_echo_rx: Duration,
}

/// Why octets are not a packet that counts (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Of another version than 1.
    #[error("version {0}")]
    Version(u8),
    /// The length field is too small, or larger than what came.
    #[error("length {0}")]
    Length(u8),
    /// A multiplier of zero.
    #[error("detect multiplier 0")]
    DetectMult,
    /// The multipoint bit, which must be zero.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// A sender without a name for the session.
    #[error("my discriminator is 0")]
    MyDiscriminator,
    /// Init or Up from a sender that does not know our name of the session.
    #[error("your discriminator is 0 in state {}", .0.as_str())]
    YourDiscriminator(State),
    /// Authentication, which is not configured.
    #[error("it is authenticated")]
    Authenticated,
}

impl Packet {
    /// The octets.
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.poll, POLL)
            | flag(self.final_, FINAL)
            | flag(self.independent, INDEPENDENT)
            | flag(self.demand, DEMAND);
        let mut octets = [0; LENGTH];
        octets[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        octets[1] = self.state.bits() << 6 | flags;
        octets[2] = self.detect_mult.get();
        octets[3] = LENGTH as u8;
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator.map_or(0, NonZeroU32::get),
            microseconds(self.desired_min_tx),
            microseconds(self.required_min_rx),
            microseconds(self.required_min_echo_rx),
        ];
        for (at, word) in octets[4..].chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_be_bytes());
        }
        octets
    }

    /// Reads the payload of a datagram. Octets beyond the packet's own length are ignored, as the RFC has it.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let (octets, longer) = match payload.first_chunk::<LENGTH>() {
            Some(octets) => (octets, payload.len()),
            None => return Err(Self::too_short(payload)),
        };
        let [first, flags, mult, length, words @ ..] = octets;
        if first >> 5 != VERSION {
            return Err(DecodeError::Version(first >> 5));
        }
        if usize::from(*length) < LENGTH || usize::from(*length) > longer {
            return Err(DecodeError::Length(*length));
        }
        let detect_mult = NonZeroU8::new(*mult).ok_or(DecodeError::DetectMult)?;
        if flags & MULTIPOINT != 0 {
            return Err(DecodeError::Multipoint);
        }
        let word = |n: usize| {
            let at = 4 * n;
            words.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_be_bytes)
        };
        let my_discriminator = NonZeroU32::new(word(0)).ok_or(DecodeError::MyDiscriminator)?;
        let state = State::from_bits(flags >> 6);
        let your_discriminator = NonZeroU32::new(word(1));
        if your_discriminator.is_none() && matches!(state, State::Init | State::Up) {
            return Err(DecodeError::YourDiscriminator(state));
        }
        // RFC 5880 §6.8.6: with the A bit set and no authentication in use the packet is discarded.
        if flags & AUTHENTICATED != 0 {
            return Err(DecodeError::Authenticated);
        }
        Ok(Self {
            state,
            diagnostic: Diagnostic(first & 0x1f),
            poll: flags & POLL != 0,
            final_: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            detect_mult,
            my_discriminator,
            your_discriminator,
            desired_min_tx: Duration::from_micros(word(2).into()),
            required_min_rx: Duration::from_micros(word(3).into()),
            required_min_echo_rx: Duration::from_micros(word(4).into()),
        })
    }

    fn too_short(payload: &[u8]) -> DecodeError {
        match payload.first() {
            Some(first) if first >> 5 != VERSION => DecodeError::Version(first >> 5),
            _ => DecodeError::Length(u8::try_from(payload.len()).unwrap_or(u8::MAX)),
        }
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            state: State::Up,
            diagnostic: Diagnostic::NONE,
            poll: false,
            final_: false,
            independent: false,
            demand: false,
            detect_mult: NonZeroU8::new(3).unwrap(),
            my_discriminator: NonZeroU32::new(0x0102_0304).unwrap(),
            your_discriminator: NonZeroU32::new(0x0506_0708),
            desired_min_tx: Duration::from_millis(100),
            required_min_rx: Duration::from_millis(300),
            required_min_echo_rx: Duration::ZERO,
        }
    }

    #[test]
    fn a_packet_has_these_octets() {
        let expected =
            [0x20, 0xc0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0x86, 0xa0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];
        assert_eq!(packet().encode(), expected);
        let all = Packet {
            state: State::Down,
            diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
            poll: true,
            final_: true,
            independent: true,
            demand: true,
            your_discriminator: None,
            ..packet()
        };
        assert_eq!(all.encode()[..4], [0x21, 0x7a, 3, 24]);
        assert_eq!(all.encode()[8..12], [0; 4]);
        let long = Packet { desired_min_tx: Duration::from_secs(10_000), ..packet() };
        assert_eq!(long.encode()[12..16], [0xff; 4]);
    }

    #[test]
    fn what_does_not_count_is_discarded_for_the_first_reason_of_the_rfc() {
        let with = |changes: &[(usize, u8)]| {
            let mut octets = packet().encode().to_vec();
            changes.iter().for_each(|(at, octet)| octets[*at] = *octet);
            octets
        };
        let no_name = [(8, 0), (9, 0), (10, 0), (11, 0)];
        let cases: Vec<(&str, Vec<u8>, Result<(), DecodeError>)> = vec![
            ("as it is", with(&[]), Ok(())),
            ("version 0", with(&[(0, 0)]), Err(DecodeError::Version(0))),
            ("version before length", with(&[(0, 0x40), (3, 0)]), Err(DecodeError::Version(2))),
            ("length 23", with(&[(3, 23)]), Err(DecodeError::Length(23))),
            ("longer than what came", with(&[(3, 25)]), Err(DecodeError::Length(25))),
            ("octets behind it", [with(&[]), vec![0; 9]].concat(), Ok(())),
            ("multiplier 0", with(&[(2, 0)]), Err(DecodeError::DetectMult)),
            ("multipoint", with(&[(1, 0xc1)]), Err(DecodeError::Multipoint)),
            ("no name", with(&[(4, 0), (5, 0), (6, 0), (7, 0)]), Err(DecodeError::MyDiscriminator)),
            ("Up without our name", with(&no_name), Err(DecodeError::YourDiscriminator(State::Up))),
            (
                "Init without our name",
                with(&[&no_name[..], &[(1, 0x80)]].concat()),
                Err(DecodeError::YourDiscriminator(State::Init)),
            ),
            ("Down without our name", with(&[&no_name[..], &[(1, 0x40)]].concat()), Ok(())),
            ("AdminDown without our name", with(&[&no_name[..], &[(1, 0)]].concat()), Ok(())),
            ("authenticated", with(&[(1, 0xc4)]), Err(DecodeError::Authenticated)),
            ("nothing", vec![], Err(DecodeError::Length(0))),
            ("cut", with(&[])[..23].to_vec(), Err(DecodeError::Length(23))),
            ("cut, of another version", vec![0xe0], Err(DecodeError::Version(7))),
        ];
        for (name, octets, expected) in cases {
            assert_eq!(Packet::decode(&octets).map(drop), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_harm_and_written_as_it_was(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut() {
                *first = *first & 0x1f | 0x20;
            }
            if let Some(length) = octets.get_mut(3) {
                *length = *length % 8 + 20;
            }
            if let Ok(packet) = Packet::decode(&octets) {
                let mut expected = octets[..LENGTH].to_vec();
                expected[3] = LENGTH as u8;
                prop_assert_eq!(&packet.encode()[..], &expected[..]);
            }
        }
    }
}

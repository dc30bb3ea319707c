//! A streaming writer of netlink messages and attributes (`struct nlmsghdr`, `struct nlattr`): everything goes straight
//! into one buffer, lengths are filled in afterwards.
//!
//! Own code rather than netlink-packet-netfilter: that crate builds a tree of owned values per attribute, which costs
//! three times the time at 45,000 Services, and has none of the expressions that the rules need.

/// Attributes and messages start at multiples of four bytes.
const ALIGNMENT: usize = 4;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// Buffer of messages.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Room for about this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// One message: header, `struct nfgenmsg`, attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        body(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.overwrite(start, &len.to_ne_bytes());
    }

    /// One attribute.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.start_attribute(kind, value.len());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A number in network order, as nf_tables wants them.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its closing NUL.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        self.start_attribute(kind, value.len() + 1);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// An attribute of attributes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.start_attribute(kind | NESTED, 0);
        body(self);
        // Callers keep lists below this: see `elements::BYTES_PER_MESSAGE`.
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.overwrite(start, &len.to_ne_bytes());
    }

    /// Adds flags to the message that starts here.
    pub(crate) fn add_flags(&mut self, message: usize, flags: u16) {
        if let Some([low, high]) = self.bytes.get(message + 6..message + 8) {
            let flags = u16::from_ne_bytes([*low, *high]) | flags;
            self.overwrite(message + 6, &flags.to_ne_bytes());
        }
    }

    fn start_attribute(&mut self, kind: u16, len: usize) {
        let len = u16::try_from(len + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn overwrite(&mut self, at: usize, value: &[u8]) {
        if let Some(room) = self.bytes.get_mut(at..at + value.len()) {
            room.copy_from_slice(value);
        }
    }
}

/// The attributes in these bytes: type without flags, and value. Ends at the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}

//! What `nft` keeps with an object for itself: comments, byte orders, the expressions of `typeof`. The kernel ignores it;
//! without it `nft list` prints numbers in the wrong order, or aborts at a key with a slot.
//!
//! The encoding is libnftnl's: type (1 byte), length (1 byte), value; nested without alignment.

use crate::family::IpFamily;
use crate::ruleset::{DataType, FieldType, SLOT_EXAMPLE, SetName};

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;

/// Byte orders: none for concatenations and verdicts.
const NONE: u32 = 0;
const HOST: u32 = 1;
const NETWORK: u32 = 2;

/// Kinds of expressions in `nft`.
const PAYLOAD: u32 = 7;
const META: u32 = 9;
const CONCATENATION: u32 = 13;
const NUMGEN: u32 = 23;

/// `NFTNL_UDATA_TABLE_COMMENT`.
const TABLE_COMMENT: u8 = 0;

/// Userdata of a table: a comment, with its closing NUL.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, TABLE_COMMENT, &[text.as_bytes(), &[0]].concat());
    out
}

/// Userdata of a set.
pub(super) fn userdata(family: IpFamily, set: SetName) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    let key = set.key();
    let order = match key {
        [FieldType::Address] => NETWORK,
        [FieldType::ClassId] => HOST,
        _ => NONE,
    };
    put_number(&mut out, KEY_BYTE_ORDER, order);
    match set.data() {
        Some(DataType::ClassId) => put_number(&mut out, DATA_BYTE_ORDER, HOST),
        Some(DataType::Verdict | DataType::AddressPort) => put_number(&mut out, DATA_BYTE_ORDER, NONE),
        None => {}
    }
    if set.data() == Some(DataType::AddressPort) {
        put(&mut out, KEY_TYPEOF, &concatenation(family, key));
        put(&mut out, DATA_TYPEOF, &concatenation(family, &[FieldType::Address, FieldType::Port]));
    } else if key.len() > 1 {
        put(&mut out, KEY_TYPEOF, &concatenation(family, &[]));
    }
    if set.data().is_some() {
        put_number(&mut out, DATA_INTERVAL, 0);
    }
    out
}

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(value);
}

fn put_number(out: &mut Vec<u8>, kind: u8, value: u32) {
    put(out, kind, &value.to_ne_bytes());
}

/// An expression: its kind, and what describes it.
fn described(kind: u32, description: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 0, kind);
    put(&mut out, 1, description);
    out
}

fn concatenation(family: IpFamily, fields: &[FieldType]) -> Vec<u8> {
    let mut description = Vec::new();
    for (index, field) in (0u8..).zip(fields) {
        put(&mut description, index, &expression(family, *field));
    }
    described(CONCATENATION, &description)
}

/// The expression that stands for a field in `typeof`.
fn expression(family: IpFamily, field: FieldType) -> Vec<u8> {
    let numbers = |values: &[u32]| {
        let mut out = Vec::new();
        for (index, value) in (0u8..).zip(values) {
            put_number(&mut out, index, *value);
        }
        out
    };
    // A payload is protocol and field in nft's tables of protocols: IPv4 is 12, IPv6 13, the transport header 11.
    match (field, family) {
        (FieldType::Address, IpFamily::V4) => described(PAYLOAD, &numbers(&[12, 12])),
        (FieldType::Address, IpFamily::V6) => described(PAYLOAD, &numbers(&[13, 9])),
        (FieldType::Port, _) => described(PAYLOAD, &numbers(&[11, 2])),
        (FieldType::Protocol, _) => described(META, &numbers(&[16])),
        (FieldType::ClassId, _) => described(META, &numbers(&[2])),
        (FieldType::Slot, _) => described(NUMGEN, &numbers(&[1, u32::from(SLOT_EXAMPLE), 0])),
    }
}

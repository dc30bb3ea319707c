//! What `nft` keeps with an object for itself: comments, byte orders, whether a type is composed. The kernel ignores
//! it; without it `nft list` prints numbers in the wrong order.
//!
//! The encoding is libnftnl's: type (1 byte), length (1 byte), value; nested without alignment.

use crate::ruleset::{DataType, FieldType, SetName, fingerprint};

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;

/// Byte orders: none for concatenations and verdicts.
const NONE: u32 = 0;
const HOST: u32 = 1;
const NETWORK: u32 = 2;

/// `EXPR_CONCAT` of `nft`.
const CONCATENATION: u32 = 13;

/// `NFTNL_UDATA_TABLE_COMMENT`.
const TABLE_COMMENT: u8 = 0;

/// Far from the types that libnftnl gives out one by one.
const RULE_MARK: u8 = 0x48;

/// Userdata of a table: a comment, with its closing NUL.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, TABLE_COMMENT, &[text.as_bytes(), &[0]].concat());
    out
}

/// Userdata of a rule: a hash of its expressions, under a type that `nft` does not know and passes over.
pub(super) fn mark(expressions: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, RULE_MARK, &fingerprint(expressions.iter().copied()).to_be_bytes());
    out
}

/// Userdata of a set.
pub(super) fn userdata(set: SetName) -> Vec<u8> {
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
        Some(DataType::Address) => put_number(&mut out, DATA_BYTE_ORDER, NETWORK),
        Some(DataType::Verdict | DataType::AddressPort) => put_number(&mut out, DATA_BYTE_ORDER, NONE),
        None => {}
    }
    if key.len() > 1 {
        put(&mut out, KEY_TYPEOF, &concatenation());
    }
    if set.data() == Some(DataType::AddressPort) {
        put(&mut out, DATA_TYPEOF, &concatenation());
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

/// A concatenation whose fields the type of the set says.
fn concatenation() -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 0, CONCATENATION);
    put(&mut out, 1, &[]);
    out
}

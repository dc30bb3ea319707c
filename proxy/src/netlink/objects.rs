//! Attributes of tables, chains, sets and elements.

use super::attributes::Writer;
use super::expressions;
use super::userdata::{comment, mark, userdata};
use super::wire::*;
use crate::family::IpFamily;
use crate::reason::EndReason;
use crate::ruleset::{
    Base, ChainType, Data, DataType, Entry, FieldType, Hook, Rule, Ruleset, SetName, Table,
};

/// A table, with what tells its layout from another's.
pub(super) fn write_table(w: &mut Writer, table: &Table) {
    w.string(NFTA_TABLE_NAME, Ruleset::TABLE);
    w.number(NFTA_TABLE_FLAGS, 0);
    w.bytes(NFTA_TABLE_USERDATA, &comment(&table.layout()));
}

/// A named counter.
pub(super) fn write_counter(w: &mut Writer, reason: EndReason) {
    w.string(NFTA_OBJ_TABLE, Ruleset::TABLE);
    w.string(NFTA_OBJ_NAME, reason.counter());
    w.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
    w.nest(NFTA_OBJ_DATA, |_| {});
}

/// A rule of a chain, with its mark.
pub(super) fn write_rule(w: &mut Writer, family: IpFamily, chain: &str, rule: &Rule) {
    w.string(NFTA_RULE_TABLE, Ruleset::TABLE);
    w.string(NFTA_RULE_CHAIN, chain);
    let start = w.len();
    write_statements(w, family, rule);
    let mark = mark(w.as_slice().get(start..).unwrap_or_default());
    w.bytes(NFTA_RULE_USERDATA, &mark);
}

fn write_statements(w: &mut Writer, family: IpFamily, rule: &Rule) {
    w.nest(NFTA_RULE_EXPRESSIONS, |w| {
        for statement in rule {
            expressions::write(w, family, statement, &|set| set_id(family, set));
        }
    });
}

/// The userdata of a rule, by which a later run knows it as its own.
pub(super) fn rule_mark(family: IpFamily, rule: &Rule) -> Vec<u8> {
    let mut w = Writer::default();
    write_statements(&mut w, family, rule);
    mark(w.as_slice())
}

/// Number of a set in a batch that creates it.
fn set_id(family: IpFamily, set: SetName) -> u32 {
    let place = SetName::ALL.iter().position(|name| *name == set).unwrap_or_default();
    let base = match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 101,
    };
    base + u32::try_from(place).unwrap_or_default()
}

/// Number of a hook.
pub(super) fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

pub(super) fn write_base(w: &mut Writer, base: &Base) {
    w.nest(NFTA_CHAIN_HOOK, |w| {
        w.number(NFTA_HOOK_HOOKNUM, hook_number(base.hook));
        w.number(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    w.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
    let kind = match base.kind {
        ChainType::Nat => "nat",
        ChainType::Filter => "filter",
    };
    w.string(NFTA_CHAIN_TYPE, kind);
}

/// Type number and length of a concatenation: six bits per field as `nft` composes them, and each padded to a word.
fn shape(family: IpFamily, fields: &[FieldType]) -> (u32, u32) {
    fields.iter().fold((0, 0), |(kind, len), field| {
        let (number, bytes) = match (field, family) {
            (FieldType::Address, IpFamily::V4) => (7, 4),
            (FieldType::Address, IpFamily::V6) => (8, 16),
            (FieldType::Protocol, _) => (12, 4),
            (FieldType::Port, _) => (13, 4),
            (FieldType::ClassId, _) => (23, 4),
        };
        (kind << 6 | number, len + bytes)
    })
}

/// Length of a field without padding.
fn field_len(family: IpFamily, field: FieldType) -> u32 {
    match (field, family) {
        (FieldType::Address, IpFamily::V4) | (FieldType::ClassId, _) => 4,
        (FieldType::Address, IpFamily::V6) => 16,
        (FieldType::Protocol, _) => 1,
        (FieldType::Port, _) => 2,
    }
}

pub(super) fn write_set(w: &mut Writer, family: IpFamily, set: SetName) {
    let map = if set.data().is_some() { NFT_SET_MAP } else { 0 };
    let interval = if set.is_interval() { NFT_SET_INTERVAL } else { 0 };
    let concatenation = if set.is_range() { NFT_SET_CONCAT } else { 0 };
    let (kind, len) = shape(family, set.key());
    w.string(NFTA_SET_TABLE, Ruleset::TABLE);
    w.string(NFTA_SET_NAME, set.as_str());
    let dynamic = if set.dynamic_size().is_some() { NFT_SET_EVAL | NFT_SET_TIMEOUT } else { 0 };
    w.number(NFTA_SET_FLAGS, map | interval | concatenation | dynamic);
    w.number(NFTA_SET_KEY_TYPE, kind);
    w.number(NFTA_SET_KEY_LEN, len);
    let data = match set.data() {
        None => None,
        Some(DataType::Verdict) => Some((NFT_DATA_VERDICT, 0)),
        Some(data) => Some(shape(family, data.fields())),
    };
    if let Some((kind, len)) = data {
        w.number(NFTA_SET_DATA_TYPE, kind);
        w.number(NFTA_SET_DATA_LEN, len);
    }
    if set.is_range() {
        w.nest(NFTA_SET_DESC, |w| {
            w.nest(NFTA_SET_DESC_CONCAT, |w| {
                for field in set.key() {
                    w.nest(NFTA_LIST_ELEM, |w| w.number(NFTA_SET_FIELD_LEN, field_len(family, *field)));
                }
            });
        });
    }
    if let Some(size) = set.dynamic_size() {
        w.nest(NFTA_SET_DESC, |w| w.number(NFTA_SET_DESC_SIZE, size));
    }
    if set.is_counted() {
        w.nest(NFTA_SET_EXPR, |w| {
            w.string(NFTA_EXPR_NAME, "counter");
            w.nest(NFTA_EXPR_DATA, |_| {});
        });
    }
    w.number(NFTA_SET_ID, set_id(family, set));
    w.bytes(NFTA_SET_USERDATA, &userdata(set));
}

pub(super) fn write_element_list(w: &mut Writer, set: SetName) {
    w.string(NFTA_SET_ELEM_LIST_TABLE, Ruleset::TABLE);
    w.string(NFTA_SET_ELEM_LIST_SET, set.as_str());
}

pub(super) fn write_element(w: &mut Writer, entry: &Entry) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, entry.key.as_slice()));
        if let Some(last) = entry.last() {
            w.nest(NFTA_SET_ELEM_KEY_END, |w| w.bytes(NFTA_DATA_VALUE, last.as_slice()));
        }
        match &entry.data {
            Data::None => {}
            Data::Goto(chain) => w.nest(NFTA_SET_ELEM_DATA, |w| {
                expressions::verdict_data(w, NFT_GOTO.cast_unsigned(), Some(chain));
            }),
            Data::Jump(chain) => w.nest(NFTA_SET_ELEM_DATA, |w| {
                expressions::verdict_data(w, NFT_JUMP.cast_unsigned(), Some(chain));
            }),
            Data::Value(value) => {
                w.nest(NFTA_SET_ELEM_DATA, |w| w.bytes(NFTA_DATA_VALUE, value.as_slice()));
            }
        }
    });
    if let Some(end) = entry.end() {
        w.nest(NFTA_LIST_ELEM, |w| {
            w.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            w.nest(NFTA_SET_ELEM_KEY, |w| w.bytes(NFTA_DATA_VALUE, end.as_slice()));
        });
    }
}

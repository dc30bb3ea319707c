//! The ruleset as `nft -f` reads it: for golden files, dry runs and people. The kernel gets the same by `netlink/`.

use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::build::Ruleset;
use super::entry::{Data, Entry, FIRST_SLOT, NUMBERS, NUMBERS_MASK, slot_number};
use super::model::{
    Base, CONNECTION, Chain, ChainType, DataType, Expression, FieldType, Hook, IcmpType, Set, SetName,
    Statement, Table, TcpFlag, Word,
};
use crate::element::Element;
use crate::family::IpFamily;
use crate::reason::EndReason;

impl Ruleset {
    /// One transaction for `nft -f` that replaces both tables, with these elements in them.
    pub fn text(&self, elements: &[Element]) -> String {
        let entries: Vec<Entry> = elements.iter().map(Entry::from).collect();
        let mut out = String::new();
        for table in &self.clone().with_elements(elements).tables {
            // Writing to a String cannot fail.
            let _ = write_table(&mut out, table, &entries);
        }
        out
    }
}

fn write_table(out: &mut String, table: &Table, entries: &[Entry]) -> fmt::Result {
    let (family, name) = (keyword(table.family), Ruleset::TABLE);
    writeln!(out, "table {family} {name}\ndelete table {family} {name}\ntable {family} {name} {{")?;
    writeln!(out, "\tcomment \"{}\"", table.layout())?;
    for reason in EndReason::ALL {
        writeln!(out, "\tcounter {} {{ }}", reason.counter())?;
    }
    for set in &table.sets {
        let own = entries.iter().filter(|entry| entry.family == table.family && entry.set == set.name);
        write_set(out, table.family, set, set.elements.iter().chain(own))?;
    }
    for chain in &table.chains {
        write_chain(out, table.family, chain)?;
    }
    writeln!(out, "}}")
}

fn write_set<'a>(
    out: &mut String,
    family: IpFamily,
    set: &Set,
    entries: impl Iterator<Item = &'a Entry>,
) -> fmt::Result {
    let name = set.name;
    let kind = if name.data().is_some() { "map" } else { "set" };
    writeln!(out, "\t{kind} {} {{\n\t\t{}", name.as_str(), set_type(family, name))?;
    if name.is_interval() {
        writeln!(out, "\t\tflags interval")?;
    }
    if let Some(size) = name.dynamic_size() {
        writeln!(out, "\t\tsize {size}\n\t\tflags dynamic,timeout")?;
    }
    if name.is_counted() {
        writeln!(out, "\t\tcounter")?;
    }
    let mut lines: Vec<String> = entries.map(entry_text).collect();
    lines.sort_unstable();
    if !lines.is_empty() {
        writeln!(out, "\t\telements = {{\n\t\t\t{}\n\t\t}}", lines.join(",\n\t\t\t"))?;
    }
    writeln!(out, "\t}}")
}

fn set_type(family: IpFamily, name: SetName) -> String {
    let address = match family {
        IpFamily::V4 => "ipv4_addr",
        IpFamily::V6 => "ipv6_addr",
    };
    let fields: Vec<&str> = name
        .key()
        .iter()
        .map(|field| match field {
            FieldType::Address => address,
            FieldType::Protocol => "inet_proto",
            FieldType::Port => "inet_service",
            FieldType::ClassId => "classid",
        })
        .collect();
    let key = fields.join(" . ");
    match name.data() {
        Some(DataType::Verdict) => format!("type {key} : verdict"),
        Some(DataType::ClassId) => format!("type {key} : classid"),
        Some(DataType::Address) => format!("type {key} : {address}"),
        Some(DataType::AddressPort) => format!("type {key} : {address} . inet_service"),
        None => format!("type {key}"),
    }
}

fn entry_text(entry: &Entry) -> String {
    let fields = entry.set.key();
    let key = match (entry.prefix, fields) {
        (Some(prefix), [_]) => prefix.to_string(),
        (Some(prefix), [fields @ .., _]) => {
            format!("{} . {prefix}", fields_text(entry.family, fields, entry.key.as_slice()))
        }
        _ => fields_text(entry.family, fields, entry.key.as_slice()),
    };
    match &entry.data {
        Data::None => key,
        Data::Goto(chain) => format!("{key} : goto {chain}"),
        Data::Jump(chain) => format!("{key} : jump {chain}"),
        Data::Value(value) => {
            let fields = entry.set.data().map_or(&[][..], DataType::fields);
            format!("{key} : {}", fields_text(entry.family, fields, value.as_slice()))
        }
    }
}

fn fields_text(family: IpFamily, fields: &[FieldType], bytes: &[u8]) -> String {
    let mut rest = bytes;
    let texts: Vec<String> = fields
        .iter()
        .map(|field| {
            let (text, len) = field_text(family, *field, rest);
            rest = rest.get(len..).unwrap_or_default();
            text
        })
        .collect();
    texts.join(" . ")
}

/// Text of the first field, and the bytes that it takes.
fn field_text(family: IpFamily, field: FieldType, bytes: &[u8]) -> (String, usize) {
    let word: [u8; 4] = bytes.first_chunk().copied().unwrap_or_default();
    let text = match field {
        FieldType::Address => {
            return match family {
                IpFamily::V4 => (Ipv4Addr::from(word).to_string(), 4),
                IpFamily::V6 => {
                    let address: [u8; 16] = bytes.first_chunk().copied().unwrap_or_default();
                    (Ipv6Addr::from(address).to_string(), 16)
                }
            };
        }
        FieldType::Protocol => match word[0] {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        },
        FieldType::Port => u16::from_be_bytes([word[0], word[1]]).to_string(),
        FieldType::ClassId => class_id(u32::from_ne_bytes(word)),
    };
    (text, 4)
}

fn class_id(number: u32) -> String {
    format!("{:x}:{:x}", number >> 16, number & 0xffff)
}

fn write_chain(out: &mut String, family: IpFamily, chain: &Chain) -> fmt::Result {
    writeln!(out, "\tchain {} {{", chain.name)?;
    if let Some(Base { kind, hook, priority }) = chain.base {
        let kind = match kind {
            ChainType::Nat => "nat",
            ChainType::Filter => "filter",
        };
        let hook = match hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
    }
    for rule in &chain.rules {
        let statements: Vec<String> =
            rule.iter().map(|statement| statement_text(family, statement)).collect();
        writeln!(out, "\t\t{}", statements.join(" "))?;
    }
    writeln!(out, "\t}}")
}

fn keyword(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

fn expression_text(family: IpFamily, expression: Expression) -> String {
    match expression {
        Expression::SourceAddress => format!("{} saddr", keyword(family)),
        Expression::DestinationAddress => format!("{} daddr", keyword(family)),
        Expression::Protocol => "meta l4proto".to_owned(),
        Expression::SourcePort => "th sport".to_owned(),
        Expression::DestinationPort => "th dport".to_owned(),
        Expression::Priority => "meta priority".to_owned(),
    }
}

fn hops(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip ttl",
        IpFamily::V6 => "ip6 hoplimit",
    }
}

fn key_text(family: IpFamily, key: &[Expression]) -> String {
    let fields: Vec<String> = key.iter().map(|field| expression_text(family, *field)).collect();
    fields.join(" . ")
}

fn statement_text(family: IpFamily, statement: &Statement) -> String {
    let saddr = || expression_text(family, Expression::SourceAddress);
    match statement {
        Statement::SourceIn(prefix) => format!("{} {prefix}", saddr()),
        Statement::SourceNotIn(prefix) => format!("{} != {prefix}", saddr()),
        Statement::SourceIsLocal => "fib saddr type local".to_owned(),
        Statement::DestinationIsLocal => "fib daddr type local".to_owned(),
        Statement::StateNew => "ct state new".to_owned(),
        Statement::StateInvalid => "ct state invalid".to_owned(),
        Statement::StateUntracked => "ct state untracked".to_owned(),
        Statement::StateNotKnown => "ct state invalid,new,untracked".to_owned(),
        Statement::StateEstablished => "ct state established".to_owned(),
        Statement::UnknownTcp => "ct state invalid,new tcp flags & syn != syn".to_owned(),
        Statement::ExpiresWithin(time) => format!("ct expiration < {}s", time.as_secs()),
        Statement::TcpWithout(flags) => {
            let name = |flag: &TcpFlag| match flag {
                TcpFlag::Fin => "fin",
                TcpFlag::Syn => "syn",
                TcpFlag::Rst => "rst",
            };
            format!("tcp flags ! {}", flags.iter().map(name).collect::<Vec<_>>().join(","))
        }
        Statement::ConnectionMarkHas(mask) => format!("ct mark & {mask:#010x} == {mask:#010x}"),
        Statement::SetConnectionMark(mask) => format!("ct mark set ct mark | {mask:#010x}"),
        Statement::StatusDnat => "ct status dnat".to_owned(),
        Statement::Icmp(kind) => {
            let protocol = match family {
                IpFamily::V4 => "icmp",
                IpFamily::V6 => "icmpv6",
            };
            let kind = match kind {
                IcmpType::EchoRequest => "echo-request",
                IcmpType::NeighborSolicitation => "nd-neighbor-solicit",
                IcmpType::NeighborAdvertisement => "nd-neighbor-advert",
            };
            format!("{protocol} type {kind}")
        }
        Statement::Tcp => "meta l4proto tcp".to_owned(),
        Statement::Says(word) => format!("{} & {} == {}", hops(family), Word::MASK, word.bits()),
        Statement::Say(word) => format!("{} set {}", hops(family), word.ttl()),
        Statement::Limit(rate) => format!("limit rate {rate}/second burst {rate} packets"),
        Statement::MarkHas(mask) => format!("meta mark & {mask:#010x} == {mask:#010x}"),
        Statement::MarkIs(mark) => format!("meta mark {mark:#010x}"),
        Statement::InSet(key, set) => format!("{} @{}", key_text(family, key), set.as_str()),
        Statement::NotInSet(key, set) => format!("{} != @{}", key_text(family, key), set.as_str()),
        Statement::SetMark(mask) => format!("meta mark set meta mark | {mask:#010x}"),
        Statement::ClearMark(mask) => format!("meta mark set meta mark & {:#010x}", !mask),
        Statement::SetPriority(key, map) => {
            format!("meta priority set {} map @{}", key_text(family, key), map.as_str())
        }
        Statement::DrawSlot(slots) => {
            format!("meta priority set numgen random mod {slots} offset {FIRST_SLOT}")
        }
        Statement::Slot(slot) => format!("meta priority set {}", class_id(slot_number(*slot))),
        Statement::ClearNumber => {
            let (mask, ours) = (class_id(NUMBERS_MASK), class_id(NUMBERS));
            format!("meta priority & {mask} == {ours} meta priority set none")
        }
        Statement::DispatchPriority(map) => format!("meta priority vmap @{}", map.as_str()),
        Statement::Remember(key, map, seconds) => {
            let key = key_text(family, key);
            format!("update @{} {{ {key} timeout {seconds}s : meta priority }}", map.as_str())
        }
        Statement::Note(set, time) => {
            let (key, time) = (key_text(family, &CONNECTION), time.as_millis());
            format!("update @{} {{ {key} timeout {time}ms }}", set.as_str())
        }
        Statement::Forget(key, map) => {
            format!("delete @{} {{ {} : meta priority }}", map.as_str(), key_text(family, key))
        }
        Statement::Dnat(key, map) => {
            format!("dnat {} to {} map @{}", keyword(family), key_text(family, key), map.as_str())
        }
        Statement::PassOn(map) => format!("dup to meta priority map @{}", map.as_str()),
        Statement::Masquerade => "masquerade fully-random".to_owned(),
        Statement::Goto(chain) => format!("goto {chain}"),
        Statement::Jump(chain) => format!("jump {chain}"),
        Statement::Count(reason) => format!("counter name {}", reason.counter()),
        Statement::Return => "return".to_owned(),
        Statement::Accept => "accept".to_owned(),
        Statement::Drop => "drop".to_owned(),
        Statement::Reject => "reject".to_owned(),
    }
}

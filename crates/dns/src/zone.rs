//! The zones in the shape in which they are searched: one table of names per zone, filled once, read by all workers.

use std::collections::HashMap;

use hickory_proto::rr::{Name, RData, RecordType};
use mainstay_site::plan;
use thiserror::Error;

use crate::key::Key;
use crate::record;

/// Why a zone cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ZoneError {
    /// A name has an empty or too long label, or is too long itself.
    #[error("`{name}` is no domain name: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A record that does not belong to the zone.
    #[error("`{name}` does not lie in the zone `{apex}`")]
    Outside {
        /// The record's name.
        name: String,
        /// The zone.
        apex: String,
    },
    /// An alias beside other records (RFC 2181, 10.1).
    #[error("`{name}` is an alias (CNAME), so it can have no other record")]
    AliasNotAlone {
        /// The name.
        name: String,
    },
    /// Two zones with one apex.
    #[error("the zone `{apex}` is there twice")]
    Twice {
        /// The apex.
        apex: String,
    },
    /// A CAA property whose tag is not 1 to 255 letters and digits (RFC 8659, 4.1).
    #[error("`{tag}` is no CAA tag; use issue, issuewild or iodef")]
    CaaTag {
        /// The tag.
        tag: String,
    },
}

/// All zones that the role answers for.
#[derive(Debug, Default)]
pub struct Zones(HashMap<Box<[u8]>, Zone>);

impl Zones {
    /// Prepares the zones of a plan.
    pub fn new(zones: &[plan::Zone]) -> Result<Self, ZoneError> {
        let mut all = HashMap::with_capacity(zones.len());
        for zone in zones {
            let built = Zone::new(zone)?;
            let apex = Key::of(&built.apex);
            if all.insert(apex.last(apex.labels()).into(), built).is_some() {
                return Err(ZoneError::Twice { apex: zone.apex.clone() });
            }
        }
        Ok(Self(all))
    }

    /// The zone nearest above the name. A DS record lives above the cut (RFC 4035, 3.1.4.1), so for that type a zone
    /// is passed over in favour of its parent, where both are served here.
    pub(crate) fn of(&self, name: &Key, asked: RecordType) -> Option<&Zone> {
        let mut zones = (0..=name.labels())
            .rev()
            .filter_map(|labels| self.0.get(name.last(labels)).map(|zone| (zone, labels == name.labels())));
        let (nearest, at_apex) = zones.next()?;
        if asked == RecordType::DS && at_apex {
            return Some(zones.next().map_or(nearest, |(parent, _)| parent));
        }
        Some(nearest)
    }
}

/// One zone.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) apex: Name,
    apex_labels: usize,
    soa: Set,
    nodes: Vec<Node>,
    names: HashMap<Box<[u8]>, usize>,
}

/// A name that exists: it has records, or names with records below it (RFC 4592, 2.2.2).
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Name,
    sets: Vec<Set>,
    wildcard: Option<usize>,
}

/// All records of one name and type. They share one time to live (RFC 2181, 5.2): the shortest.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) record_type: RecordType,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<RData>,
    /// The hosts that the records point at, as far as they lie in this zone.
    hosts: Vec<Host>,
}

#[derive(Debug, Clone)]
struct Host {
    node: usize,
    /// Whether it lies at or below the records' own name.
    inside: bool,
}

/// What the zone knows of a name.
pub(crate) enum Found<'z> {
    /// The name exists.
    Here(&'z Node),
    /// It does not, but a wildcard stands for it.
    Wildcard(&'z Node),
    /// It belongs to another zone, which these servers have; `exact` at the cut itself.
    Delegated { servers: &'z Set, cut: &'z Name, exact: bool },
    /// It does not exist.
    Nowhere,
}

impl Zone {
    fn new(plan: &plan::Zone) -> Result<Self, ZoneError> {
        let apex = record::name(&plan.apex)?;
        let key = Key::of(&apex);
        // The time to live of a negative answer is the smaller of the SOA's own and its last field (RFC 2308, 5): one number here.
        let soa = Set::new(plan.soa.minimum, record::soa(&plan.soa)?);
        let mut zone = Self {
            apex_labels: key.labels(),
            soa: soa.clone(),
            nodes: Vec::new(),
            names: HashMap::new(),
            apex,
        };
        let at_apex = zone.insert(&zone.apex.clone(), &key);
        zone.nodes[at_apex].sets.push(soa);
        for record in &plan.records {
            let name = record::name(&record.name)?;
            let owner = Key::of(&name);
            if !owner.is_within(&key) {
                return Err(ZoneError::Outside { name: record.name.clone(), apex: plan.apex.clone() });
            }
            let node = zone.insert(&name, &owner);
            zone.nodes[node].add(record.ttl, record::data(&record.data)?);
        }
        if let Some(node) = zone.nodes.iter().find(|node| node.is_mixed_alias()) {
            let name = node.name.to_ascii().trim_end_matches('.').to_owned();
            return Err(ZoneError::AliasNotAlone { name });
        }
        zone.find_hosts();
        Ok(zone)
    }

    /// The node of a name, made if it is not there yet, and with it every name between it and the apex.
    fn insert(&mut self, name: &Name, key: &Key) -> usize {
        let mut above = None;
        let mut node = 0;
        for labels in self.apex_labels..=key.labels() {
            node = self.names.get(key.last(labels)).copied().unwrap_or_else(|| {
                let fresh = self.nodes.len();
                self.nodes.push(Node { name: name.trim_to(labels), sets: Vec::new(), wildcard: None });
                self.names.insert(key.last(labels).into(), fresh);
                fresh
            });
            if let Some(above) = above
                && self.nodes[node].name.is_wildcard()
            {
                let above: &mut Node = &mut self.nodes[above];
                above.wildcard = Some(node);
            }
            above = Some(node);
        }
        node
    }

    fn find_hosts(&mut self) {
        let names = &self.names;
        for node in &mut self.nodes {
            let owner = Key::of(&node.name);
            for set in &mut node.sets {
                for data in &set.data {
                    let target = match data {
                        RData::NS(server) => Key::of(&server.0),
                        RData::MX(mail) => Key::of(&mail.exchange),
                        _ => continue,
                    };
                    if let Some(node) = names.get(target.last(target.labels())) {
                        set.hosts.push(Host { node: *node, inside: target.is_within(&owner) });
                    }
                }
            }
        }
    }

    /// Looks a name up that lies within the zone, from the apex down.
    pub(crate) fn find(&self, name: &Key) -> Found<'_> {
        let Some(apex) = self.names.get(name.last(self.apex_labels)) else { return Found::Nowhere };
        let mut encloser = &self.nodes[*apex];
        for labels in self.apex_labels + 1..=name.labels() {
            let Some(node) = self.names.get(name.last(labels)).map(|index| &self.nodes[*index]) else {
                return encloser.wildcard.map_or(Found::Nowhere, |index| Found::Wildcard(&self.nodes[index]));
            };
            if let Some(servers) = node.set(RecordType::NS) {
                return Found::Delegated { servers, cut: &node.name, exact: labels == name.labels() };
            }
            encloser = node;
        }
        Found::Here(encloser)
    }

    /// The start of authority, for negative answers.
    pub(crate) fn soa(&self) -> &Set {
        &self.soa
    }

    /// The hosts that these records point at; `inside` those below the records' own name, which nobody else can tell.
    pub(crate) fn hosts<'z>(&'z self, set: &'z Set, inside: bool) -> impl Iterator<Item = &'z Node> {
        set.hosts.iter().filter(move |host| host.inside == inside).map(|host| &self.nodes[host.node])
    }
}

impl Node {
    /// The records of one type.
    pub(crate) fn set(&self, record_type: RecordType) -> Option<&Set> {
        self.sets.iter().find(|set| set.record_type == record_type)
    }

    /// The records that stand for all of them where "any" is asked for (RFC 8482, 4.1): the first there are.
    pub(crate) fn first_set(&self) -> Option<&Set> {
        self.sets.first()
    }

    /// The addresses, of both families.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter().filter(|set| matches!(set.record_type, RecordType::A | RecordType::AAAA))
    }

    fn add(&mut self, ttl: u32, data: RData) {
        let record_type = data.record_type();
        let Some(set) = self.sets.iter_mut().find(|set| set.record_type == record_type) else {
            self.sets.push(Set::new(ttl, data));
            return;
        };
        set.ttl = set.ttl.min(ttl);
        if !set.data.contains(&data) {
            set.data.push(data);
        }
    }

    fn is_mixed_alias(&self) -> bool {
        self.set(RecordType::CNAME).is_some_and(|alias| self.sets.len() > 1 || alias.data.len() > 1)
    }
}

impl Set {
    fn new(ttl: u32, data: RData) -> Self {
        Self { record_type: data.record_type(), ttl, data: vec![data], hosts: Vec::new() }
    }
}
